"""Plans that are remembered, the states of their cells, and how both are shown."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from datamodules.store import write_store
from experiments.failures import CAUSES
from experiments.identity import run_id
from experiments.presets import PRESETS
from experiments.status import Status
from experiments.store import RunStore
from lightning_modules.hashing import file_sha256
from lightning_modules.tokenizers.config import EMBEDDED
from sweeps import cache, planner
from sweeps.definition import read_sweep
from sweeps.planner import plan
from sweeps.preview import preview
from sweeps.progress import Progress
from sweeps.registry import register
from sweeps.state import CellState
from sweeps.table import cell_json, folded, short_state, status_table
from sweeps.views import list_sweeps
from tests.sweeps.steps import WIDTH, Make, axis


def test_a_remembered_plan_is_equal_and_forgotten_when_anything_changes(make_sweep: Make, root: Path) -> None:
    path = make_sweep(axes=[WIDTH], report={})
    fresh, remembered = plan(path), plan(path)
    assert fresh == remembered and len(list((root / "cache" / "plans").iterdir())) == 1
    preset = Path(fresh.cells[0].preset)
    preset.write_text(preset.read_text().replace("max_steps: 10", "max_steps: 11"))
    assert plan(path).cells[0].max_steps == 11
    (next((root / "cache" / "plans").iterdir())).write_text("{")
    assert plan(path).cells[0].max_steps == 11


def test_a_remembered_plan_is_forgotten_when_data_in_a_folder_change(make_sweep: Make, root: Path) -> None:
    """Stores and folders of weights are named by their folders and identified by what is in them."""
    path = make_sweep(axes=[WIDTH], report={})
    stores = root.parent / "stores"
    for split in ("train", "val"):
        codes = {"vocab_size": 512, "tokenizer": file_sha256(EMBEDDED), "source": {"classes": ["a", "b"]}}
        write_store(stores / split, np.zeros((2, 1, 64), int), np.arange(2), ["", ""], **codes)
    words = ["data.name=folder", f"data.root={stores}"]
    first = plan(path, "", words).cells[0].run_id
    assert plan(path, "", words).cells[0].run_id == first
    meta = stores / "train" / "meta.json"
    meta.write_text(meta.read_text().replace('"count": 2', '"count": 5'))
    assert plan(path, "", words).cells[0].run_id != first


def test_a_remembered_plan_is_forgotten_when_what_it_starts_from_changes(
    make_sweep: Make, root: Path, tmp_path: Path
) -> None:
    """Through a preset of one's own, and the file that is its `base`."""
    base = tmp_path / "base.yaml"
    base.write_text((PRESETS / "maskmamba/demo.yaml").read_text())
    (tmp_path / "start.yaml").write_text("base: base.yaml\n")
    path = make_sweep(axes=[WIDTH], report={})
    words = [f"trainer.init_from={tmp_path / 'start.yaml'}"]
    first = plan(path, "", words).cells[0]
    assert plan(path, "", words).cells[0] == first and run_id(first.config) == first.run_id
    base.write_text(base.read_text().replace("lr: 2.0e-3", "lr: 1.0e-3"))
    now = plan(path, "", words).cells[0]
    assert now.run_id != first.run_id and run_id(now.config) == now.run_id


def test_a_remembered_plan_is_forgotten_when_any_source_changes(
    make_sweep: Make, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a generator's that this process has not imported, since its facts were known already."""
    project, expanded = tmp_path / "project", []
    for package in cache.PACKAGES:
        (project / package / "inner").mkdir(parents=True)
    monkeypatch.setattr(cache, "PROJECT", project)
    original = planner._expand
    monkeypatch.setattr(planner, "_expand", lambda *args: expanded.append(1) or original(*args))
    path = make_sweep(axes=[WIDTH], report={})

    def expansions() -> int:
        cache.source_stamp.cache_clear()
        expanded.clear()
        for _ in range(2):
            plan(path)
        return len(expanded)

    try:
        assert expansions() == 1
        for name in ("generators.py", "configs.yaml", "weights.npz", "codes.safetensors"):
            (project / "lightning_modules" / "inner" / name).write_text("new")
            assert expansions() == 1, name
        (project / "lightning_modules" / "inner" / "generators.py").write_text("changed")
        assert expansions() == 1
        (project / "experiments" / "notes.md").write_text("not part of anything")
        (project / "experiments" / ".#editing.py").symlink_to("nowhere")
        assert expansions() == 0
    finally:
        cache.source_stamp.cache_clear()


def test_a_dry_run_leaves_nothing_behind(make_sweep: Make, root: Path) -> None:
    root.rmdir()
    plan(make_sweep(axes=[WIDTH], report={})).states()
    assert not root.exists()


def test_states_of_ten_thousand_cells_need_few_looks_at_each(make_sweep: Make, root: Path) -> None:
    """What that takes in seconds, `ablate bench plan` measures."""
    lr = axis("lr", "sampler.temperature", *[i / 1000 for i in range(1, 101)])
    path = make_sweep(axes=[lr], scales={"demo": {"preset": "", "seeds": list(range(100))}}, report={})
    cells = plan(path).cells
    assert len(cells) == 10_000
    store = RunStore(root)
    for cell in cells[:2000]:
        evaluation = store.run(cell.run_id).evaluation(cell.eval_id)
        evaluation.folder.mkdir(parents=True)
        evaluation.result_path.write_text('{"metrics": {"fd_efflite0": 1.0}}')
        store.run(cell.run_id).result_path.write_text('{"step": 10, "max_steps": 10, "metrics": {}}')
    read_sweep.cache_clear()
    touched = Counter[str]()
    watching = True

    def watch(event: str, arguments: tuple) -> None:
        if watching and event in ("open", "os.listdir", "os.scandir") and str(root) in str(arguments[0]):
            touched[str(arguments[0])] += 1

    sys.addaudithook(watch)  # stays for good, hence the switch
    states = plan(path).states()
    watching = False
    assert sum(state.state == "done" for state in states.values()) == 2000
    assert sum(touched.values()) < 4 * len(cells), touched.most_common(3)


def test_a_training_that_ended_early_is_done_and_shows_where(make_sweep: Make, root: Path) -> None:
    planned = plan(make_sweep())
    run = RunStore(root).run(planned.cells[0].run_id)
    run.folder.mkdir(parents=True)
    run.result_path.write_text('{"step": 6, "max_steps": 10, "stopped_early": {}, "metrics": {}}')
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(status_table(planned, planned.states(), console.width))
    line = next(line for line in console.export_text().splitlines() if planned.cells[0].name in line)
    assert planned.states()[planned.cells[0].name].part == "evaluation" and "trained, not evaluated" in line
    evaluation = run.evaluation(planned.cells[0].eval_id)
    evaluation.folder.mkdir(parents=True)
    evaluation.result_path.write_text('{"metrics": {"fd_efflite0": 1.0}}')
    console.print(status_table(planned, planned.states(), console.width))
    assert "6/10" in console.export_text()
    state = planned.states()[planned.cells[0].name]
    images = replace(state, status=replace(state.status, step=40, max_steps=40))
    told = cell_json(planned.cells[0], images)
    assert images.state == "done" and (told["step"], told["max_steps"]) == (6, 10), "steps, not images"
    assert preview(planned)["cells"][0]["max_steps"] == 10


@pytest.mark.parametrize("name", ["result.json", "status.json", "claims"])
def test_a_run_that_cannot_be_read_hides_no_other(name: str, make_sweep: Make, root: Path) -> None:
    """As another user's, or of a broken disk: here a folder is where a file belongs, or a file where a folder does."""
    planned = plan(make_sweep(axes=[WIDTH], report={}))
    file = root / "runs" / planned.cells[0].run_id / name
    if name == "claims":
        file.parent.mkdir(parents=True)
        file.touch()
    else:
        file.mkdir(parents=True)
    first, second = (state.describe() for state in planned.states().values())
    assert first.startswith(f"failed: Cannot read {file}: ") and second == "missing"


def test_the_list_survives_a_sweep_that_has_changed_since(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = plan("aim-adaln", root=root)
    register(planned)
    record = planned.folder / "plan.json"
    record.write_text(record.read_text().replace('"words": []', '"words": ["adaln=long_gone"]'))
    assert list_sweeps(root, as_json=True) == 0
    (row,) = [row for row in json.loads(capsys.readouterr().out) if row["name"] == "aim-adaln"]
    assert "not as it is defined now: Unknown value of axis 'adaln' 'long_gone'" in row["begun"][0]


def test_a_damaged_record_of_a_sweep_is_written_anew(root: Path) -> None:
    planned = plan("aim-adaln", root=root)
    register(planned)
    record = planned.folder / "plan.json"
    whole = record.read_bytes()
    record.write_bytes(b"\xff")
    register(planned)
    assert record.read_bytes() == whole


def test_planning_needs_no_torch() -> None:
    modules = "('torch', 'lightning', 'pandas')"
    code = f"import sys, sweeps.actions, sweeps.views; sys.exit(any(m in sys.modules for m in {modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_long_names_break_behind_commas_and_empty_columns_are_left_out(make_sweep: Make) -> None:
    name = "protocol=parameters,family=maskmamba,backbone=transformer,seed=2"
    assert folded(name, 200) == name
    lines = folded(name, 80).split("\n")
    assert "".join(lines) == name and len(lines) == 3 and all(len(line) <= 33 for line in lines)
    assert all(line.endswith(",") for line in lines[:-1])
    planned = plan(make_sweep())
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(status_table(planned, planned.states(), console.width))
    heads = console.export_text().splitlines()[1].split()
    assert heads == ["cell", "state"]


def test_a_line_of_a_log_names_what_it_counts() -> None:
    status = Status(state="running", step=60, max_steps=60)
    assert "60/60 samples" in short_state(CellState(status, "evaluation"))
    assert "step 60/60" in short_state(CellState(status, "training"))


@pytest.mark.parametrize("cause", CAUSES)
def test_only_what_ended_from_outside_is_started_again_without_being_asked(cause: str) -> None:
    state = CellState(Status("failed", cause=cause), "training")
    assert state.is_open == (cause in ("killed", "preempted", "time_limit"))


def test_nothing_follows_the_sentence_of_a_failure(make_sweep: Make) -> None:
    told, planned = io.StringIO(), plan(make_sweep())
    failed = CellState(Status("failed", step=1, max_steps=9, reason="The loss became nan."), "training")
    assert short_state(failed) == "failed: The loss became nan."
    (group, *_) = planned.groups()
    Progress(planned, Console(file=told, width=200)).finished(group, {group.cells[0].name: failed}, 30)
    assert told.getvalue() == f"{group.cells[0].name}: failed after 30 s: The loss became nan.\n"


def test_a_cell_whose_start_is_trained_first_shows_how_far_that_is(make_sweep: Make, root: Path) -> None:
    planned = plan(make_sweep(axes=[WIDTH], report={}))
    cell, other = planned.cells[0], planned.cells[-1]
    child, start = (RunStore(root).prepare(each.config) for each in (cell, other))
    with child.claim(), child.starting_from(start.id):
        assert planned.states()[cell.name].describe() == "running 0 %"
        with start.claim():
            start.update(phase="train", step=3, max_steps=4, loss=2.5, steps_per_s=0.5)
            state = planned.states()[cell.name]
            assert short_state(state) == "running its start, 75 %, step 3/4, loss 2.500, 0.50 it/s, 2 s left"
            assert cell_json(cell, state)["step"] == 3 and state.status.step == 0
        child.update(phase="train", step=1, max_steps=4)
        assert planned.states()[cell.name].describe() == "running 25 %"
