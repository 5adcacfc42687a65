"""`ablate cancel`: what it stops, what it spares, and what it cannot stop."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.config import save_config
from experiments.store import RunStore
from sweeps import actions
from sweeps.planner import plan
from sweeps.registry import needed_elsewhere, register
from tests.sweeps.conftest import WORKER
from tests.sweeps.steps import LAUNCH, Make, axis, gone, states, wait_for, worker_pids


def test_cancel_asks_stops_and_spares_what_another_sweep_needs(
    make_sweep: Make, behave: Callable, trainings: Callable, capsys, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = [axis("scheme", "generator.hybrid_scheme", "serial_v2")]
    path, other = make_sweep(), make_sweep("other", axes=shared, report={})
    assert actions.cancel(path) == 0 and "Nothing to stop" in capsys.readouterr().out
    register(plan(other))
    groups = [cell.group for cell in plan(path).cells]
    assert list(needed_elsewhere(plan(path), groups).values()) == ["other --scale demo"]
    (needed,) = needed_elsewhere(plan(path), groups)
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "run", lambda *_: pytest.fail("was looked at for nothing"))
        assert not needed_elsewhere(plan(path), {*groups} - {needed})
    damaged = plan(other).cells[0].works(RunStore(root))[-1].result_path
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")  # which has to be made again
    assert list(needed_elsewhere(plan(path), groups).values()) == ["other --scale demo"]
    damaged.unlink()
    behave(steps=0.3)
    process = subprocess.Popen([sys.executable, "-c", LAUNCH.replace("jobs=2", "jobs=3"), path, *WORKER])
    wait_for(lambda: len(trainings()) == 3)
    wait_for(lambda: sum("running" in state for state in states(path).values()) == 3)
    assert actions.cancel(path) == 2
    questions: list[str] = []
    assert actions.cancel(path, confirm=lambda q: not questions.append(q)) == 0
    assert questions == [f"Stop 2 running or queued training(s) of {path} --scale demo?"]
    assert "scheme=serial_v2 goes on: other --scale demo needs it." in capsys.readouterr().out
    assert process.wait(timeout=60) == 1
    found = states(path)
    assert found.pop("scheme=serial_v2") == "done"
    assert all(state.startswith("stopped") for state in found.values()), found


def test_cancel_names_what_no_launcher_of_the_sweep_began(make_sweep: Make, behave: Callable, capsys) -> None:
    """A training by itself hears of no request; it must not be counted as asked."""
    path = make_sweep(axes=[axis("scheme", "generator.hybrid_scheme", "serial_v2")], report={})
    cell = plan(path).cells[0]
    config = plan(path).root / "own.yaml"
    save_config(cell.config, config)
    behave(steps=5.0)
    process = subprocess.Popen([*WORKER, str(config)])
    try:
        wait_for(lambda: states(path)[cell.name].startswith("running"))
        for options in ({"dry_run": True}, {"confirm": lambda question: True}):
            assert actions.cancel(path, **options) == 1
            said = " ".join(capsys.readouterr().out.split())
            owner = f"no launcher of this sweep began it, but process {process.pid} on {socket.gethostname()};"
            assert f"scheme=serial_v2 goes on: {owner} stop it with kill -INT {process.pid} there." in said
            assert "Nothing else to stop" in said and "Asked" not in said
        assert not (plan(path).folder / "cancel.json").exists()
    finally:
        process.kill()
        process.wait()


def test_a_worker_that_does_not_heed_a_cancel_is_killed_and_not_called_dead(
    make_sweep: Make, behave: Callable, trainings: Callable, tmp_path: Path, capsys
) -> None:
    path = make_sweep(axes=[axis("scheme", "generator.hybrid_scheme", "serial_v2")], report={})
    behave(steps=5.0, deaf=True)
    code = LAUNCH.replace("from sweeps import actions;", "from sweeps import actions, local; local.PATIENCE = 0.5;")
    process = subprocess.Popen([sys.executable, "-c", code, path, *WORKER])
    wait_for(lambda: len(trainings()) == 1)
    assert actions.cancel(path, confirm=lambda question: True) == 0
    assert process.wait(timeout=60) == 1
    wait_for(lambda: all(gone(pid) for pid in worker_pids(tmp_path)))
    assert states(path) == {"scheme=serial_v2": "interrupted 0 %"}
