"""What stands behind the command line: report, explain, compare, board, and the data frame."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

import reports
from experiments.errors import UserError
from reports import commands
from reports.board import address, link_all_runs, link_board, serve
from reports.build import build
from reports.compare import compare_runs
from reports.explain import explain
from reports.frames import to_frame
from reports.provenance import is_current
from reports.subject import check_report, load_subject
from sweeps.definition import load_sweep, sweep_names
from sweeps.planner import plan
from sweeps.registry import register
from tests.reports import fakes


@pytest.mark.parametrize("name", sweep_names())
def test_every_named_sweep_can_be_reported_before_it_has_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    register(plan(name, root=tmp_path))
    folder = commands.report(name, root=tmp_path)
    printed = capsys.readouterr().out
    assert "not run" in printed and str(folder / "index.html") in printed.replace("\n", "")
    assert folder.parent == tmp_path / "reports" and folder.name.startswith(name)


def test_json_holds_the_table_and_the_claims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register(plan(sweep_names()[0], root=tmp_path))
    commands.report(sweep_names()[0], root=tmp_path, out=tmp_path / "out", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["index"] == str(tmp_path / "out" / "index.html") and found["rows"] and "claims" in found


def test_a_sweep_that_was_never_begun_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="never begun in .*; begin it with: ablate run aim-adaln --scale demo"):
        commands.report("aim-adaln", root=tmp_path)
    assert not (tmp_path / "reports").exists()


def test_a_part_of_a_sweep_has_a_report_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register(plan("aim-adaln", root=tmp_path))
    whole = commands.report("aim-adaln", root=tmp_path)
    before = (whole / "table.md").read_text()
    part = commands.report("aim-adaln", overrides=["adaln=single"], root=tmp_path)
    assert (whole / "table.md").read_text() == before
    assert (whole.name, part.name) == ("aim-adaln-demo", "aim-adaln-demo-adaln=single")
    assert "A part of the sweep: single." in (part / "table.md").read_text()
    assert str(part) in capsys.readouterr().out.replace("\n", "")
    for words, name in (
        (["adaln=per_layer,single", "seeds=0"], "aim-adaln-demo"),
        (["seeds=2,0,1"], "aim-adaln-demo-seeds=0,1,2"),
        (["seeds=" + ",".join(map(str, range(90)))], "aim-adaln-demo-"),
    ):
        folder = load_subject("aim-adaln", overrides=words, root=tmp_path).folder
        assert folder.startswith(name) and len(folder) <= 40
        assert folder == name or name.endswith("-")


def test_a_folder_is_printed_as_it_is_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "a[/b]:fire:"
    register(plan("aim-adaln", root=root))
    assert f"Wrote {commands.report('aim-adaln', root=root) / 'index.html'} in" in capsys.readouterr().out


def test_unknown_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Unknown sweep"):
        commands.report("maskmamba-hybird", root=tmp_path)


@pytest.mark.parametrize("word", ["hybrid_scheme=serial_v2,seed=0", "serial_v2 seed0", "serial_v2", "fake-serial_v2"])
def test_explain_finds_a_cell_by_what_a_person_types(tmp_path: Path, word: str) -> None:
    found = explain(fakes.finished(tmp_path), word)
    lines = dict(found.lines())
    assert found.cell == "hybrid_scheme=serial_v2,seed=0" and lines["FD-EffLite0"] == "112.0"
    assert lines["code"] == "0123456789" and lines["again"].endswith("hybrid_scheme=serial_v2 seeds=0")
    assert json.dumps(found.as_json())


def test_explain_of_a_missing_cell_and_of_an_unclear_word(tmp_path: Path) -> None:
    assert explain(fakes.subject(tmp_path), "serial_v2").state == "not run"
    with pytest.raises(UserError, match="fits 2 cells"):
        explain(fakes.subject(tmp_path), "serial")
    with pytest.raises(UserError, match="Unknown cell"):
        explain(fakes.subject(tmp_path), "parallel_v9")


def test_compare_names_what_differs(tmp_path: Path) -> None:
    fakes.finished(tmp_path)
    found, folder = compare_runs("fake-serial_v2-s0", "fake-serial_v1-s0", tmp_path)
    assert found.configuration == {"generator.hybrid_scheme": ("serial_v2", "serial_v1")}
    assert found.metrics["fd_efflite0"] == (112.0, 124.0)
    assert {"compare.md", "compare.json", "curves_train-loss.png", "samples.png"} <= {p.name for p in folder.iterdir()}
    with pytest.raises(UserError, match="No run 'nothing'"):
        compare_runs("nothing", "fake-serial_v1-s0", tmp_path)


def test_compare_of_one_run_by_two_versions_of_the_code_names_roots_and_code(tmp_path: Path) -> None:
    cell = fakes.cells_of((0,))[0]
    fakes.write_run(tmp_path / "before", cell)
    other = {f"{part}__provenance__git_commit": "f" * 40 for part in ("run", "evaluation")}
    fakes.write_run(tmp_path / "after", cell, **other)
    places = [tmp_path / root / "runs" / cell.run_id for root in ("before", "after")]
    found, folder = compare_runs(*map(str, places), tmp_path)
    assert found.names == (f"{cell.run_id}@before", f"{cell.run_id}@after") and folder.name.endswith("@after")
    assert found.configuration == {} and found.surroundings == {"code version": ("0123456789", "ffffffffff")}
    assert "## Made with" in found.to_markdown()
    assert compare_runs(str(places[0]), str(places[0]), tmp_path)[0].surroundings == {}


def test_compare_adds_up_device_time_and_prints_intervals_with_their_values(tmp_path: Path) -> None:
    cell, other = fakes.cells_of((0,))[:2]
    ends = {"evaluation__metrics__fd_efflite0_low": 110.0, "evaluation__metrics__fd_efflite0_high": 130.0}
    fakes.write_run(tmp_path, cell, 120.0, run__device_seconds=3600.0, evaluation__device_seconds=1800.0, **ends)
    fakes.write_run(tmp_path, other, 140.0)
    found, _ = compare_runs(cell.run_id, other.run_id, tmp_path)
    assert found.metrics["device_seconds"] == (5400.0, None)
    assert (
        "| FD-EffLite0 | 120.0 [110.0, 130.0] | 140.0 |" in found.to_markdown() and " low " not in found.to_markdown()
    )


def test_times_of_work_have_the_unit_that_suits_them(tmp_path: Path) -> None:
    cell, other = fakes.cells_of((0,))[:2]
    fakes.write_run(tmp_path, cell, run__train_seconds=2.7, run__device_seconds=9.0)
    fakes.write_run(tmp_path, other, run__train_seconds=150.0, run__device_seconds=9000.0)
    text = compare_runs(cell.run_id, other.run_id, tmp_path)[0].to_markdown()
    assert "| Training time | 2.7 s | 2.5 min |" in text and "| Device time | 9.0 s | 2.5 h |" in text
    lines = dict(explain(fakes.subject(tmp_path), cell.name).lines())
    assert lines["Training time"] == "2.7 s"
    assert lines["protocol: floor"] == "FD-EffLite0 41.5, KID-EffLite0 (x1000) -0.4"


def test_kernels_of_training_and_evaluation_stand_apart(tmp_path: Path) -> None:
    cell = fakes.cells_of((0,))[0]
    fakes.write_run(
        tmp_path,
        cell,
        run__provenance__backends={"ssd": "cpp", "mamba2_decode": "cpp"},
        evaluation__provenance__backends={"mamba2_decode": "torch"},
    )
    lines = dict(explain(fakes.subject(tmp_path, [cell]), cell.name).lines())
    assert lines["kernels of the training"] == "ssd: cpp"
    assert lines["kernels of its sample grids"] == "mamba2_decode: cpp"
    assert lines["kernels of the evaluation"] == "mamba2_decode: torch"


def test_a_command_that_a_worker_was_started_with_can_be_typed(tmp_path: Path) -> None:
    cell = fakes.cells_of((0,))[0]
    fakes.write_run(tmp_path, cell, run__provenance__command="cli.py execute jobs/a.yaml")
    lines = dict(explain(fakes.subject(tmp_path, [cell]), cell.name).lines())
    assert lines["command"] == "ablate execute jobs/a.yaml"


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken, pytest.raises(UserError, match="cannot be had.*--port"):
        taken.bind(("localhost", 0))
        taken.listen()
        serve(tmp_path, taken.getsockname()[1])


def board_of(root: Path) -> Path:
    subject = fakes.finished(root, (0, 1))
    for record in subject.records:
        assert record.run is not None
        record.run.tensorboard.mkdir()
    link_board(subject, root / "board")
    return root / "board"


def test_the_board_shows_exactly_the_sweeps_runs_under_readable_names(tmp_path: Path) -> None:
    other = fakes.write_run(tmp_path, fakes.cell_of({"position": "other"}))
    (other / "tb").mkdir()
    board = board_of(tmp_path)
    names = {path.name for path in board.iterdir() if path.is_symlink()}
    assert names == {f"{scheme} seed{seed}" for scheme in fakes.SCHEMES for seed in (0, 1)}
    assert (board / "serial_v2 seed1").resolve() == tmp_path / "runs" / "fake-serial_v2-s1" / "tb"
    (other / "overrides.txt").write_text("generator.depth=3\nruntime.threads=1\n")
    (name,) = (name for name in link_all_runs(tmp_path, tmp_path / "all") if "fake-other-s0" in name)
    assert "generator.depth=3" in name and "threads" not in name
    assert (tmp_path / "all" / name).resolve() == other / "tb" and list((tmp_path / "all" / "final" / name).iterdir())


def test_seeds_of_a_row_share_a_colour() -> None:
    query = parse_qs(urlparse(address(6006)).query)
    kind, _, pattern = query["runColorGroup"][0].partition(":")
    groups = [re.search(pattern, name) for name in ("serial_v2 seed0", "serial_v2 seed12", "final/serial_v2 seed0")]
    assert kind == "regex" and [match and match[1] for match in groups] == ["serial_v2"] * 3


def test_a_board_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board_of(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reports.board.write_experiment", full)
    with pytest.raises(UserError, match="Cannot write .*board: No space left on device"):
        link_board(fakes.subject(tmp_path, fakes.cells_of((0,))), tmp_path / "boards" / "board")
    assert not list((tmp_path / "boards").iterdir())


def test_making_a_board_again_removes_links_but_no_runs(tmp_path: Path) -> None:
    board = board_of(tmp_path)
    event = tmp_path / "runs" / "fake-serial_v2-s0" / "tb" / "events"
    event.write_text("precious")
    link_board(fakes.subject(tmp_path, fakes.cells_of((0,))), board)
    assert event.read_text() == "precious" and not (board / "serial_v2 seed1").exists()


def test_tensorboard_reads_hparams_final_metrics_layout_and_table(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.hparams import metadata
    from tensorboard.util.tensor_util import make_ndarray

    board = board_of(tmp_path)
    events = EventMultiplexer().AddRunsFromDirectory(str(board))
    events.Reload()
    run = "final/serial_v2 seed0"
    start = metadata.parse_session_start_info_plugin_data(
        events.SummaryMetadata(run, metadata.SESSION_START_INFO_TAG).plugin_data.content
    )
    assert start.hparams["hybrid_scheme"].string_value == "serial_v2" and start.group_name == "serial_v2 seed0"
    tags = events.Runs()[run]["tensors"]
    assert "final/fd_efflite0" in tags and not any("hp_metric" in tag for tag in tags)
    column = next(c for c in fakes.subject(tmp_path).layout.columns if c.metric == "seconds_per_image")
    (final,) = events.Tensors(run, "final/seconds_per_image")
    assert column.label.endswith("(ms)") and column.scale == 1000
    record = fakes.subject(tmp_path, fakes.cells_of((0, 1))).find("hybrid_scheme=serial_v2,seed=0")
    assert make_ndarray(final.tensor_proto).item() == pytest.approx(1000 * record.metrics["seconds_per_image"])
    assert {"table", "custom_scalars__config__"} <= set(events.Runs()["."]["tensors"])


def test_a_board_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ablate run fake-hybrid-schemes"):
        link_board(fakes.subject(tmp_path), tmp_path / "board")
    with pytest.raises(UserError, match="no runs"):
        link_all_runs(tmp_path, tmp_path / "board")


def test_the_frame_is_tidy(tmp_path: Path) -> None:
    fakes.write_run(tmp_path, fakes.cells_of((0, 1))[0], 120.0)
    frame = to_frame(fakes.subject(tmp_path, fakes.cells_of((0, 1))))
    assert len(frame) == 8 and list(frame.columns[:5]) == ["hybrid_scheme", "seed", "run_id", "eval_id", "reason"]
    assert list(frame.hybrid_scheme.cat.categories) == list(fakes.SCHEMES)
    assert frame.fd_efflite0.count() == 1 and (frame.reason == "not run").sum() == 7
    assert len(reports.frame(sweep_names()[0], root=tmp_path)) > 0


def test_looking_at_results_imports_nothing_heavy() -> None:
    code = (
        "import sys, reports, reports.subject, reports.commands, reports.explain;"
        "print([m for m in ('torch', 'lightning', 'matplotlib', 'pandas', 'tensorboard', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_current_report_is_left_alone_until_a_result_is_newer(tmp_path: Path) -> None:
    subject = fakes.finished(tmp_path)
    index = build(subject, tmp_path / "out")
    assert is_current(subject, index)
    assert not is_current(replace(subject, records=subject.records[:2]), index), "it shows other cells"
    for change in ("reproduces", "url", "citation", "in_paper", "title"):
        assert not is_current(replace(subject, **{change: "something else"}), index), change
    assert not is_current(replace(subject, remarks=("A part of the sweep.",)), index)
    record = subject.records[0]
    assert record.run is not None
    later = index.stat().st_mtime + 5
    os.utime(record.run.evaluation(record.eval_id).result_path, (later, later))
    assert not is_current(subject, index)
    assert not is_current(subject, tmp_path / "none" / "index.html")


def test_a_report_is_written_again_when_a_reproduction_lifts_its_flags(tmp_path: Path) -> None:
    newer = {f"{part}__provenance__git_commit": "f" * 40 for part in ("run", "evaluation")}
    for number, cell in enumerate(fakes.cells_of()):
        fakes.write_run(tmp_path, cell, 100.0 + number, **(newer if number == 0 else {}))
    subject = fakes.subject(tmp_path)
    index = build(subject, tmp_path / "out")
    assert subject.flags and is_current(subject, index)
    fakes.write_run(tmp_path / "reproduced" / "one", fakes.cells_of()[1], 101.0, **newer)
    again = fakes.subject(tmp_path)
    assert not again.flags and not is_current(again, index)


def test_a_report_names_the_command_that_makes_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything that was typed, and the path of a definition of one's own."""
    definition = Path(load_sweep("aim-adaln").path).read_text().replace("name: aim-adaln", "name: mine")
    (tmp_path / "mine.yaml").write_text(definition)
    monkeypatch.chdir(tmp_path)
    words = ["seeds=0,1", "adaln=single", "trainer.max_steps=7", "resources.gpus=1"]
    subject = load_subject("mine.yaml", "demo", words, tmp_path)
    asked = "ablate run mine.yaml --scale demo seeds=0,1 adaln=single trainer.max_steps=7"
    assert subject.command == asked
    again = "ablate run mine.yaml --scale demo trainer.max_steps=7 size=mini adaln=single seeds=1"
    assert subject.command_of(subject.records[1]) == again
    assert load_subject("aim-adaln", root=tmp_path).command == "ablate run aim-adaln --scale demo"


def test_a_mistake_in_the_report_block_comes_out_before_anything_runs(tmp_path: Path) -> None:
    text = Path(load_sweep("aim-adaln").path).read_text()
    for path, old, new in (("a.yaml", "fd_efflite0", "fd_eflite0"), ("b.yaml", "columns:", "colums:")):
        (tmp_path / path).write_text(text.replace("name: aim-adaln", f"name: {path[0]}").replace(old, new))
        with pytest.raises(UserError, match=f"Sweep .*{path}: Unknown .* Did you mean"):
            check_report(str(tmp_path / path))
    check_report("aim-adaln")
