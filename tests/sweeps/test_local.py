"""The local launcher: what `ablate run` begins, how cells end, and what is done again; the worker needs no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.errors import UserError
from sweeps import actions, views
from sweeps.local import _signals_as_interrupt
from sweeps.planner import plan
from sweeps.registry import begun
from tests.sweeps.conftest import WORKER
from tests.sweeps.steps import GUIDANCE, LAUNCH, SCHEMES, Make, axis, gone, launcher, run, states, wait_for, worker_pids


def test_a_sweep_whose_data_are_not_named_starts_nothing(make_sweep: Make, trainings: Callable[[], list[str]]) -> None:
    path = make_sweep()
    with pytest.raises(UserError, match="data.name=imagenet needs data.root=FOLDER"):
        run(path, overrides=["data.name=imagenet"])
    assert trainings() == [] and actions.run(path, overrides=["data.name=imagenet"], dry_run=True) == 0


def test_a_sweep_that_could_not_be_measured_starts_nothing(
    make_sweep: Make, trainings: Callable[[], list[str]], tmp_path: Path
) -> None:
    captions = {"data.condition": "caption", "generator.condition": "text", "text_encoder.name": "minilm"}
    prompts = [{"label": "own"}, {"label": "coco", "set": {"evaluation.dataset": "coco"}}]
    path = make_sweep(
        scales={"demo": {"preset": str(tmp_path / "preset.yaml"), "overrides": captions}},
        axes=[{"name": "prompts", "values": prompts}],
        report={},
    )
    with pytest.raises(UserError, match=r"evaluation\.dataset=coco needs evaluation\.dataset_root=FOLDER"):
        run(path)
    assert trainings() == []


def test_a_sweep_runs_once_and_then_has_nothing_to_do(
    make_sweep: Make, trainings: Callable, root: Path, capsys
) -> None:
    path = make_sweep(axes=[SCHEMES, GUIDANCE], report={})
    assert run(path) == 0
    assert set(states(path).values()) == {"done"}
    assert sorted(trainings()) == ["serial_v1", "serial_v2"]
    assert "4 of 4 cells done." in capsys.readouterr().out
    assert run(path) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert len(trainings()) == 2
    assert [record["sweep"] for record in begun(root)] == ["tiny"]
    planned = plan(path)
    result = json.loads(
        (root / "runs" / planned.cells[1].run_id / "evaluations" / planned.cells[1].eval_id / "result.json").read_text()
    )
    assert result["metrics"]["fd_efflite0"] == 3.0


def test_cells_that_other_code_made_are_named(
    make_sweep: Make, root: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_sweep()
    assert run(path) == 0
    runs = [root / "runs" / cell.run_id for cell in plan(path).cells]
    files = [runs[0] / "result.json", runs[1] / "result.json", next(runs[1].glob("evaluations/*/result.json"))]
    for file, letter in zip(files, "aab", strict=True):
        file.write_text(json.dumps({**json.loads(file.read_text()), "provenance": {"git_commit": 40 * letter}}))
    capsys.readouterr()
    monkeypatch.setattr("experiments.provenance.code_version", lambda: {"git_commit": 40 * "b"})
    assert run(path) == 0
    said = capsys.readouterr().out
    assert "Nothing to do" in said and "2 of 3 cells were trained or measured before by other code" in said
    assert "(2 by commit aaaaaaaaaa)" in said and "name another folder of outputs with --root" in said
    monkeypatch.setattr("experiments.provenance.code_version", lambda: {"git_commit": None})
    assert run(path) == 0 and "other code" not in capsys.readouterr().out


def test_a_dry_run_starts_nothing(make_sweep: Make, trainings: Callable, root: Path, capsys) -> None:
    assert run(make_sweep(), dry_run=True) == 0
    assert capsys.readouterr().out.count("would start") == 3
    assert not trainings() and not (root / "sweeps").exists()
    with pytest.raises(UserError, match="--jobs -1 must be positive"):
        run(make_sweep(), dry_run=True, jobs=-1)


def test_finding_nothing_to_do_loads_no_torch(make_sweep: Make) -> None:
    path = make_sweep()
    assert run(path) == 0
    code = LAUNCH.replace("sys.exit(", "code = ").rstrip(")") + "); sys.exit(code or 'torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code, path, *WORKER], capture_output=True, text=True)
    assert answer.returncode == 0 and "Nothing to do" in answer.stdout, answer.stderr


def test_a_failed_cell_does_not_stop_the_others_and_can_be_retried(
    make_sweep: Make, behave: Callable, trainings: Callable, capsys
) -> None:
    path = make_sweep()
    behave(serial_v1="fail")
    assert run(path, jobs=1) == 1
    found = states(path)
    assert found["scheme=serial_v1"] == "failed: MemoryError: out of memory: tried to allocate 3 GiB"
    assert found["scheme=group_v1"] == found["scheme=serial_v2"] == "done"
    assert "out of memory (oom): 1" in capsys.readouterr().out
    assert run(path) == 1 and len(trainings()) == 3, "a lasting failure waits for retry"
    assert views.status(path, as_json=True) == 1
    capsys.readouterr()
    behave()
    assert actions.retry(path, where=["cause=nan"], worker=WORKER) == 0
    assert len(trainings()) == 3
    assert actions.retry(path, where=["cause=oom", "scheme=serial_v1"], worker=WORKER) == 0
    assert trainings()[3:] == ["serial_v1"] and set(states(path).values()) == {"done"}


def test_a_worker_that_dies_without_a_word_is_named_and_continued(
    make_sweep: Make, behave: Callable, trainings: Callable, root: Path
) -> None:
    path = make_sweep()
    behave(serial_v1="die", serial_v2="crash")
    assert run(path) == 1
    found = states(path)
    assert found["scheme=serial_v1"].startswith("failed: killed by SIGKILL")
    assert found["scheme=serial_v2"] == "failed: ImportError: no module named spam"
    behave(serial_v2="crash")
    assert run(path) == 1
    assert states(path)["scheme=serial_v1"] == "done", "killed from outside: goes on without being asked"
    lines = (root / "runs" / plan(path).cells[1].run_id / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 11))


def test_a_failed_evaluation_leaves_the_others_of_its_run(
    make_sweep: Make, behave: Callable, trainings: Callable
) -> None:
    axes = [SCHEMES, axis("guidance", "sampler.guidance", 3.0, 1.0, 2.0)]
    path = make_sweep(axes=axes, report={})
    behave(serial_v1="fail_evaluation")
    assert run(path) == 1
    found = states(path)
    assert found["scheme=serial_v1,guidance=3.0"] == "failed: The samples are not finite."
    assert sorted(found.values()) == ["done"] * 5 + ["failed: The samples are not finite."]
    assert len(trainings()) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_the_launcher_stops_its_workers_and_loses_nothing(
    make_sweep: Make, behave: Callable, trainings: Callable, tmp_path: Path, number: signal.Signals
) -> None:
    path = make_sweep()
    behave(steps=0.3)
    process = launcher(path)
    wait_for(lambda: len(trainings()) == 2)
    wait_for(lambda: any("running" in state for state in states(path).values()))
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode != 0
    wait_for(lambda: all(gone(pid) for pid in worker_pids(tmp_path)))
    assert not any("running" in state or "failed" in state for state in states(path).values()), states(path)
    behave()
    assert run(path) == 0
    assert set(states(path).values()) == {"done"}


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_stops_the_launcher_unless_nohup_began_it(ignored: bool) -> None:
    inherited, stopped = signal.SIG_IGN if ignored else signal.SIG_DFL, False
    before = signal.signal(signal.SIGHUP, inherited)
    try:
        with _signals_as_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
    except KeyboardInterrupt:
        stopped = True
    finally:
        after = signal.signal(signal.SIGHUP, before)
    assert stopped is not ignored and after == inherited


def test_two_launchers_at_once_train_everything_once(make_sweep: Make, behave: Callable, trainings: Callable) -> None:
    path = make_sweep()
    behave(steps=0.1)
    both = [launcher(path), launcher(path)]
    for process in both:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    assert sorted(trainings()) == ["group_v1", "serial_v1", "serial_v2"]


def test_workers_have_their_own_gpus(
    make_sweep: Make, behave: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,9")
    path = make_sweep(scales={"demo": {"preset": "", "overrides": {"runtime.devices": 2, "runtime.device": "cuda"}}})
    behave(steps=0.1)
    assert run(path, jobs=0) == 0
    assert set(states(path).values()) == {"done"}
    lines = (tmp_path / "trainings.txt").read_text().splitlines()
    given = [line.split()[2] for line in lines]
    assert sorted(given[:2]) == ["4,5", "6,7"] and given[2] in given[:2], "the third waits for a pair of GPUs"
    with pytest.raises(UserError, match=r"A run wants 8 GPU\(s\) .* this machine offers 5"):
        run(path, overrides=["runtime.devices=8", "trainer.batch_size=8"])


def test_unknown_launcher_and_silly_jobs(make_sweep: Make) -> None:
    with pytest.raises(UserError, match="Unknown launcher"):
        run(make_sweep(), launcher="loacl")
    with pytest.raises(UserError, match="--jobs"):
        run(make_sweep(), jobs=-1)


def test_a_retry_ends_with_the_report_as_a_run_does(make_sweep: Make, root: Path) -> None:
    path = make_sweep(report={"rows": "scheme", "columns": ["fd_efflite0"]})
    assert run(path) == 0
    for words, written in (["--no-report"], False), ([], True):
        with pytest.raises(SystemExit, match="0"):
            main(["retry", path, *words])
        assert bool(list(root.glob("reports/*/index.html"))) is written


@pytest.mark.parametrize("part", ["training", "evaluation"])
def test_damaged_result_is_a_failed_cell_with_that_sentence(make_sweep: Make, root: Path, part: str) -> None:
    path = make_sweep()
    assert run(path) == 0
    cell = plan(path).cells[0]
    file = root / "runs" / cell.run_id / ("" if part == "training" else f"evaluations/{cell.eval_id}") / "result.json"
    file.write_text(file.read_text()[:10])
    assert "result.json is damaged" in states(path)[cell.name]
    assert actions.retry(path, worker=WORKER) == 0
    assert set(states(path).values()) == {"done"}
    assert os.path.getsize(file) > 10
    file.unlink()
    assert states(path)[cell.name] in ("missing", "trained, not evaluated")
    assert run(path) == 0 and set(states(path).values()) == {"done"}
