"""`ablate status`, `ablate logs` and `ablate list`: what they show of cells that ran, failed or go on."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from experiments.errors import UserError
from experiments.status import Status
from experiments.store import RunStore
from sweeps import actions, views
from sweeps.local import LocalLauncher, local_slots
from sweeps.logs import log_path
from sweeps.planner import Plan, plan
from sweeps.progress import Progress
from sweeps.state import CellState
from tests.sweeps.conftest import WORKER
from tests.sweeps.steps import GUIDANCE, SCHEMES, Make, run


def test_what_was_just_started_is_not_called_missing(make_sweep: Make, root: Path) -> None:
    """A worker needs seconds before its run says that it is at work."""
    planned = plan(make_sweep())
    first, second, _ = planned.groups()
    told = io.StringIO()
    progress = Progress(planned, Console(file=told, width=200))
    progress.started(first)
    progress.update({first.id}, {second.id})
    assert "scheme=group_v1: starting\n" in told.getvalue()
    assert "0 of 3 cells done, 1 starting, 1 queued, 1 missing." in told.getvalue()
    run = RunStore(root).prepare(first.cells[0].config)
    with run.claim():
        run.update(phase="train", step=4, max_steps=10)
        found = progress._states({first.id}, {second.id})
        assert [state.describe() for state in found.values()] == ["running 40 %", "queued", "missing"]
    found = progress._states({first.id}, {second.id})
    assert found["scheme=group_v1"].describe() == "starting at 40 %"


def test_what_another_process_is_at_work_on_is_named_once(make_sweep: Make, root: Path) -> None:
    """In a log nothing else tells that the command waits."""
    planned, told = plan(make_sweep()), io.StringIO()
    launcher = LocalLauncher(planned, local_slots(planned, 1), Progress(planned, Console(file=told, width=200)))
    run = RunStore(root).prepare(planned.cells[0].config)
    with run.claim():
        launcher._sort(planned.groups())
        launcher._look_elsewhere()
    assert [group.name for group in launcher.elsewhere] == ["scheme=group_v1"]
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    assert told.getvalue() == f"scheme=group_v1 is waited for: {owner} is at work on it.\n"


def test_logs_and_status(make_sweep: Make, behave: Callable, capsys) -> None:
    path = make_sweep()
    with pytest.raises(UserError, match="has no log"):
        views.logs(path, "group")
    behave(serial_v1="crash")
    run(path)
    capsys.readouterr()
    assert views.logs(path, "serial_v1", lines=1) == 0
    assert capsys.readouterr().out == "ImportError: no module named spam\n"
    with pytest.raises(UserError, match="fits 2 cells"):
        views.logs(path, "serial")
    assert views.status(path) == 1
    shown = capsys.readouterr().out
    assert "scheme=group_v1" in shown and "other (other): 1" in shown
    assert views.status(path, as_json=True) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [cell["state"] for cell in answer["cells"]] == ["done", "failed", "done"]
    assert answer["failures"] == {"other": {"ImportError: no module named spam": ["scheme=serial_v1"]}}


def test_logs_after_a_retry_are_of_that_cell(make_sweep: Make, behave: Callable, capsys) -> None:
    """A worker of a later launch may have other cells than the first, and prints to the same file."""
    path = make_sweep(axes=[SCHEMES, GUIDANCE], report={})
    behave(serial_v1="fail_evaluation")
    run(path)
    cell = "scheme=serial_v1,guidance=3.0"
    assert actions.retry(path, worker=WORKER) == 1
    capsys.readouterr()
    views.logs(path, cell)
    shown = capsys.readouterr().out
    assert shown.count("FloatingPointError: The samples are not finite.") == 2, shown
    views.logs(path, "scheme=serial_v1,guidance=1.0")
    assert capsys.readouterr().out == shown, "they share a training, and so a worker"


def test_followed_logs_end_with_the_last_line(make_sweep: Make, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_sweep()
    planned = plan(path)
    log = log_path(planned, planned.cells[0].group)
    log.parent.mkdir(parents=True)
    log.write_text("first\n")
    answers = [CellState(Status(state), "training") for state in ("running", "done")]

    def look(self: Plan) -> dict[str, CellState]:
        with open(log, "a") as file:
            file.write("more\n")
        return {cell.name: answers[0] if len(answers) == 1 else answers.pop(0) for cell in planned.cells[:1]}

    monkeypatch.setattr(Plan, "states", look)
    monkeypatch.setattr(views.time, "sleep", lambda seconds: None)
    views.logs(path, "group", follow=True)
    assert capsys.readouterr().out == "first\nmore\nmore\n"


def test_list_names_sweeps_and_what_was_begun(capsys, root: Path) -> None:
    assert views.list_sweeps(root, as_json=True) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["maskmamba-hybrid-schemes"]["cells"]["demo"] == 4
    assert views.list_sweeps(root) == 0
    assert "not begun" in capsys.readouterr().out
