"""The local launcher beside a queue of Slurm's, of whose answers it is told."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from rich.console import Console

from experiments import slurm
from experiments.store import Run
from sweeps import actions, progress, views
from sweeps import queue as queues
from sweeps.arrays import Arrays
from sweeps.cell import Group
from sweeps.local import LocalLauncher, local_slots
from sweeps.planner import Plan, plan
from sweeps.progress import Progress
from sweeps.queue import read_queue
from sweeps.slurm import SlurmLauncher
from sweeps.submissions import Submission, read_submissions, write_submissions
from tests.sweeps.conftest import WORKER
from tests.sweeps.steps import Make, run, states


def open_groups(path: str) -> list[str]:
    """What would be submitted to Slurm, by the names of its first cells."""
    planned = plan(path)
    return [group.name for group in SlurmLauncher(planned).open_groups(planned.states())]


def test_what_is_queued_in_slurm_is_left_to_it(
    make_sweep: Make, trainings: Callable, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    path = make_sweep()
    planned = plan(path)
    jobs = [planned.folder / "jobs" / cell.group / f"{cell.eval_id}.yaml" for cell in planned.cells]
    for job in jobs:
        job.parent.mkdir(parents=True)
        job.write_text("of a job")
    queue(planned, monkeypatch, {"77_1": ("PENDING", "Resources")})
    assert run(path) == 0 and sorted(trainings()) == ["group_v1", "serial_v2"]
    assert "scheme=serial_v1 is left to Slurm: queued (job 77_1: Resources)." in capsys.readouterr().out
    assert {job.read_text() for job in jobs} == {"of a job"}


def test_what_was_killed_and_is_queued_again_is_not_submitted_twice(
    make_sweep: Make, behave: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_sweep()
    behave(serial_v1="die")
    assert run(path) == 1 and open_groups(path) == ["scheme=serial_v1"]
    queue(plan(path), monkeypatch, {"77_1": ("PENDING", "Resources")})
    assert plan(path).states()["scheme=serial_v1"].is_queued
    assert open_groups(path) == []


def test_what_slurm_alone_knows_to_have_failed_can_be_retried(
    make_sweep: Make, trainings: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_sweep()
    queue(plan(path), monkeypatch, {"77_1": ("OUT_OF_MEMORY", "")})
    assert run(path) == 1 and "serial_v1" not in trainings()
    assert actions.retry(path, worker=WORKER) == 0
    assert set(states(path).values()) == {"done"}


@pytest.mark.parametrize("shown", ["terminal", "file", "JSON"])
def test_watching_goes_on_while_cells_are_queued(
    make_sweep: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shown: str
) -> None:
    path, slept, out = make_sweep(), [], io.StringIO()
    planned = plan(path)
    queue(planned, monkeypatch, {"77_0": ("PENDING", "Resources")})

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            queue(planned, monkeypatch, {})

    monkeypatch.setattr(views.time, "sleep", sleep)
    monkeypatch.setattr(views, "console", lambda: Console(file=out, width=120, force_terminal=shown == "terminal"))
    capsys.readouterr()
    assert views.status(path, watch=True, as_json=shown == "JSON") == 0
    assert len(slept) == 2
    if shown == "JSON":
        assert not out.getvalue()
        assert {cell["state"] for cell in json.loads(capsys.readouterr().out)["cells"]} == {"missing"}
    elif shown == "file":
        changes = ["0 of 3 cells done, 1 queued, 2 missing.", "0 of 3 cells done, 3 missing."]
        assert out.getvalue().splitlines()[:2] == changes, "and the table below them"


@pytest.mark.parametrize("look", [0.01, 3.0])
def test_looking_leaves_time_for_other_work(make_sweep: Make, monkeypatch: pytest.MonkeyPatch, look: float) -> None:
    """Of thousands of cells on a slow file system a look takes seconds; Slurm is asked twice a minute."""
    now, slept, ages, shown = [0.0], [], [], []
    planned = plan(make_sweep())
    queue(planned, monkeypatch, {"77_0": ("PENDING", "Resources")})
    answer = slurm.job_states()

    def states(queue: object) -> object:
        now[0] += look
        return states_of(planned.cells, queue)

    def job_states(max_age: float = 0.0) -> object:
        ages.append(max_age)
        return answer

    states_of = planned.states_of
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=slept.append)
    monkeypatch.setattr(slurm, "job_states", job_states)
    monkeypatch.setattr(views, "time", clock)
    watching = views._until_settled(SimpleNamespace(folder=planned.folder, states=states))
    next(watching), next(watching)
    assert slept == pytest.approx([max(2.0, 20 * look)]) and ages == [30.0, 30.0]
    monkeypatch.setattr(progress, "time", clock)
    told = Progress(planned, Console(file=io.StringIO(), width=120, force_terminal=True))
    monkeypatch.setattr(told, "_states", lambda *_: shown.append(now[0]) or states(read_queue(planned.folder)))
    with told:
        for _ in range(100):
            told.update(set())
            now[0] += 1.0
    assert len(shown) == (100 if look < 1 else 2)


def test_the_list_of_submissions_is_read_once_for_all_groups(make_sweep: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names them all."""
    planned, reads = plan(make_sweep()), []
    queue(planned, monkeypatch, {})
    monkeypatch.setattr(queues, "read_submissions", lambda folder: reads.append(folder) or read_submissions(folder))
    told = Progress(planned, Console(file=io.StringIO()))
    launcher = LocalLauncher(planned, local_slots(planned, 1), told)
    launcher._sort(planned.groups())
    assert len(launcher.pending) == 3 and len(reads) == 1


def test_groups_are_told_apart_by_their_ids(make_sweep: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of them compared with each other, one by one, would take minutes."""
    planned = plan(make_sweep(), overrides=["resources.evaluation.gpus=1"])
    first, *others = planned.groups()
    monkeypatch.setattr(Run, "is_done", lambda run: run.id == first.id)
    monkeypatch.setattr(Group, "__eq__", lambda *_: pytest.fail("compared"))
    batches = list(Arrays(planned, 1000, 0).of([*others, first]))
    assert [(batch.part, [group.id for group in batch.groups]) for batch in batches] == [
        ("train", [group.id for group in others]),
        ("evaluate", [group.id for group in others]),
        ("evaluate", [first.id]),
    ]


def queue(planned: Plan, monkeypatch: pytest.MonkeyPatch, jobs: dict[str, tuple[str, str]]) -> None:
    """As if all groups were submitted as job 77, of whose tasks Slurm says this."""
    write_submissions(planned.folder, [Submission("u", "77", [group.id for group in planned.groups()], 0.0)])
    answer = {job: slurm.JobState(*found) for job, found in jobs.items()}
    monkeypatch.setattr(slurm, "job_states", lambda max_age=0.0: answer)
    monkeypatch.setattr(slurm, "ended_jobs", lambda jobs: {})
