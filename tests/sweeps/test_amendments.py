"""`ablate retry SWEEP KEY=VALUE`: cells with values of their own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.store import RunStore
from reports.explain import explain
from reports.provenance import origin_note
from reports.subject import load_subject
from sweeps import actions, planner
from sweeps.amendments import amendments_path
from sweeps.planner import Plan, plan
from sweeps.queue import Queue, Task
from sweeps.registry import register
from sweeps.state import forgiven
from tests.sweeps.conftest import WORKER
from tests.sweeps.steps import Make, run, states

CHANGED, OTHER = "scheme=serial_v1", "scheme=serial_v2"


@pytest.fixture
def failed(make_sweep: Make, behave: Callable) -> str:
    """A sweep of which one cell failed; by now nothing fails any more."""
    path = make_sweep()
    fail(plan(path))
    return path


def fail(planned: Plan, scheme: str = "serial_v1") -> None:
    """Note failures of a scheme's cells, without training."""
    register(planned)
    for cell in planned.cells:
        if cell.labels["scheme"] == scheme:
            run = RunStore(planned.root).prepare(cell.config)
            with run.claim() as mine:
                assert mine
            run.record_failure("oom", "out of memory")


def stored(path: str) -> dict:
    file = amendments_path(plan(path).folder)
    return json.loads(file.read_text()) if file.exists() else {}


def test_a_change_is_kept_for_that_cell_and_taken_back(failed: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {cell.name: cell.run_id for cell in plan(failed).cells}
    with pytest.raises(UserError, match="batch_sice"):
        actions.retry(failed, change=["trainer.batch_sice=2"], worker=WORKER)
    assert actions.retry(failed, change=["trainer.batch_size=2"], worker=WORKER) == 0
    told = "scheme=serial_v1: trainer.batch_size=2 from now on; `ablate retry` with trainer.batch_size=4 takes it back."
    assert told in capsys.readouterr().out
    after = {cell.name: cell for cell in plan(failed).cells}
    assert after[CHANGED].config.trainer.batch_size == 2 and after[CHANGED].run_id != before[CHANGED]
    assert after[OTHER].run_id == before[OTHER] and not after[OTHER].amended
    assert states(failed)[CHANGED] == "done"
    assert stored(failed) == {"scheme=serial_v1,seed=0": {"trainer.batch_size": "2"}}
    evaluation = RunStore(plan(failed).root).run(after[CHANGED].run_id).evaluation(after[CHANGED].eval_id)
    evaluation.result_path.unlink()
    evaluation.record_failure("other", "broken")
    assert actions.retry(failed, change=["trainer.batch_size=4"], worker=WORKER) == 0
    assert "scheme=serial_v1: no longer amended." in capsys.readouterr().out
    assert stored(failed) == {} and {cell.name: cell.run_id for cell in plan(failed).cells} == before


@pytest.mark.parametrize(
    ("launcher", "change", "gpus"),
    [
        ("local", ["data.subset=2"], 0),
        ("slurm", ["trainer.accumulate=2"], 4),
        ("slurm", [], 3),  # of attempts that are used up, and which a retry forgives
    ],
)
def test_what_the_launch_refuses_leaves_failures_and_changes_as_they_were(
    failed: str, launcher: str, change: list[str], gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that cannot be shared out, and more than there are images."""
    monkeypatch.setattr(actions, "wait_for_ends", lambda *_: None)
    monkeypatch.setattr(actions, "max_array_size", lambda: 1000)
    resources = [f"resources.gpus={gpus}", "resources.max_attempts=1"]
    before = states(failed)
    with pytest.raises(UserError, match="trainer.batch_size=4"):
        actions.retry(failed, change=change, launcher=launcher, overrides=resources, worker=WORKER)
    assert stored(failed) == {} and states(failed) == before
    assert before[CHANGED] == "failed: out of memory"


def test_a_failure_that_only_slurm_knows_is_checked_as_open(make_sweep: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is tried before the failure is forgotten."""
    path = make_sweep()
    group = plan(path).find(CHANGED).group
    queue = Queue({group: (Task("7_0", "all", "OUT_OF_MEMORY", ""),)})
    monkeypatch.setattr(planner, "read_queue", lambda folder: queue)
    planned = plan(path)
    assert planned.states()[CHANGED].status.cause == "oom"
    assert forgiven(planned.states())[CHANGED].is_open


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("generator.hybrid_scheme=serial_v2", "axis 'scheme' sets generator.hybrid_scheme, .* put the value into axis"),
        ("generator={hybrid_scheme: serial_v2}", "axis 'scheme' sets generator.hybrid_scheme"),
        ("optim.lr=0.1", r"search.space sets optim.lr, .* put the value into search.space in .*tiny.yaml"),
        ("seed=3", "seed=3: scheme=serial_v1 would be another cell"),
    ],
)
def test_what_a_row_is_called_after_is_not_amended(make_sweep: Make, word: str, message: str) -> None:
    search = {"space": [{"key": "optim.lr", "values": [0.1, 0.2]}], "metric": "fd_efflite0", "trials": 2}
    path = make_sweep(search=search if "lr" in word else {})
    planned = plan(path)
    cell = next(cell for cell in planned.cells if cell.name == CHANGED)
    register(planned)
    store = RunStore(planned.root)
    work = store.prepare_search(cell.config) if cell.is_searched else store.prepare(cell.config)
    work.record_failure("nan", "the loss is not a number")
    with pytest.raises(UserError, match=message):
        actions.retry(path, where=["cause=nan"], change=[word], worker=WORKER)
    assert stored(path) == {}


def test_the_steps_of_equal_compute_are_not_amended(make_sweep: Make) -> None:
    equal = {"when": {"scheme": "serial_v1"}, "to": {"scheme": "serial_v2"}}
    path = make_sweep(equal_compute=equal)
    fail(plan(path))
    with pytest.raises(UserError, match="equal_compute sets trainer.max_steps"):
        actions.retry(path, change=["trainer.max_steps=3"], worker=WORKER)


def test_an_amended_cell_stays_so_however_it_is_asked_for(failed: str) -> None:
    fail(plan(failed, overrides=["seeds=0,1"]))
    actions.retry(failed, where=["seed=0"], change=["trainer.accumulate=2"], worker=WORKER)
    own = plan(failed).find(CHANGED)
    for words in ([], ["seeds=0,1"], ["seeds=0"], ["scheme=serial_v1", "seeds=1,0"]):
        cells = [cell for cell in plan(failed, overrides=words).cells if cell.labels["scheme"] == "serial_v1"]
        assert {cell.seed: cell.config.trainer.accumulate for cell in cells}[0] == 2, words
        assert {cell.run_id for cell in cells if cell.seed == 0} == {own.run_id}
        assert all(cell.config.trainer.accumulate == 1 for cell in cells if cell.seed)
    actions.retry(failed, overrides=["seeds=0,1"], where=["seed=1"], change=["trainer.accumulate=4"], worker=WORKER)
    assert plan(failed, overrides=["seeds=1"]).find(CHANGED).config.trainer.accumulate == 4


def test_files_that_name_cells_without_their_seed_are_read(failed: str) -> None:
    amendments_path(plan(failed).folder).write_text('{"scheme=serial_v1": {"trainer.accumulate": "2"}}')
    cells = plan(failed, overrides=["seeds=0,1"]).cells
    assert [cell.config.trainer.accumulate for cell in cells if cell.labels["scheme"] == "serial_v1"] == [2, 1]
    fail(plan(failed))
    actions.retry(failed, change=["optim.warmup_steps=3"], worker=WORKER)
    both = {"trainer.accumulate": "2", "optim.warmup_steps": "3"}
    assert stored(failed) == {"scheme=serial_v1,seed=0": both}


def test_of_a_file_without_seeds_the_first_one_keeps_its_changes(failed: str) -> None:
    amendments_path(plan(failed).folder).write_text('{"scheme=serial_v1": {"trainer.accumulate": "2"}}')
    fail(plan(failed, overrides=["seeds=0,1"]))
    actions.retry(failed, overrides=["seeds=0,1"], where=["seed=1"], change=["trainer.accumulate=4"], worker=WORKER)
    cells = plan(failed, overrides=["seeds=0,1"]).cells
    assert [cell.config.trainer.accumulate for cell in cells if cell.labels["scheme"] == "serial_v1"] == [2, 4]


def test_a_report_names_amended_rows_and_makes_them_again(failed: str, tmp_path: Path) -> None:
    run(failed)
    actions.retry(failed, change=["trainer.accumulate=2"], worker=WORKER)
    subject = load_subject(failed)
    assert ("", "Amended by `ablate retry`: serial_v1: trainer.accumulate=2.") in subject.table.notes
    assert "--scale demo`, 1 of 3 cells amended by `ablate retry`;" in origin_note(subject)
    assert ("amended", "trainer.accumulate=2") in explain(subject, CHANGED).origin
    again = shlex.split(explain(subject, CHANGED).reproduce)
    assert again[1] == "run"
    for root in (None, tmp_path / "elsewhere"):
        (cell,) = plan(again[2], again[4], again[5:], root).cells
        assert cell.run_id == subject.find(CHANGED).run_id
    both = load_subject(failed, overrides=["seeds=0,1"])
    assert ("", "Amended by `ablate retry`: serial_v1, seed 0: trainer.accumulate=2.") in both.table.notes
