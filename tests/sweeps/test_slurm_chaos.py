"""Thirty short runs on a real Slurm under random kills, requeues and restarts of daemons: nothing lost, nothing twice.

The environment variable CHAOS_SECONDS (default 20) says for how long faults are injected, CHAOS_SEED which.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import SubprocessError

import pytest

from experiments.claims import newest_claim
from experiments.errors import CellError, UserError
from experiments.owners import process_start
from experiments.store import RunStore
from reports.subject import load_subject
from sweeps import actions
from sweeps.planner import Plan, plan
from tests.sweeps.conftest import WORKER
from tests.sweeps.slurm_cluster import Cluster

pytestmark = [pytest.mark.usefixtures("slurm_here"), pytest.mark.slow]
AXES = [
    {"name": "scheme", "key": "generator.hybrid_scheme", "values": ["serial_v1", "serial_v2", "group_v1"]},
    {"name": "guidance", "key": "sampler.guidance", "values": [1.0, 2.0]},
]
SCALES = {"demo": {"preset": "", "seeds": list(range(10))}}
REPORT = {"rows": "scheme", "columns": ["fd_efflite0"], "spread": "guidance"}
WORDS = ("resources.max_attempts=1000",)
PARALLEL = 6
CHAOS_SECONDS = int(os.environ.get("CHAOS_SECONDS", "20"))


class Faults:
    """Things that go wrong on clusters."""

    def __init__(self, cluster: Cluster, planned: Plan, path: str, seed: int):
        self.cluster, self.plan, self.path, self.random = cluster, planned, path, random.Random(seed)
        self.injected: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def inject(self) -> None:
        """One random fault."""
        kinds = (self.kill_worker, self.requeue, self.warn, self.submit_again, self.restart_controller, self.kill_node)
        fault = self.random.choices(kinds, weights=(6, 6, 6, 2, 1, 1))[0]
        try:
            if fault():
                self.injected[fault.__name__] += 1
        except (SubprocessError, UserError, CellError, ProcessLookupError):
            self.refused[fault.__name__] += 1  # the controller is down, or the job has just ended

    def kill_worker(self) -> bool:
        for group in self.random.sample(self.plan.groups(), 30):
            claim = newest_claim(RunStore(self.plan.root).run(group.id).folder)
            if claim and claim.owner and claim.alive() and process_start(claim.owner.pid) == claim.owner.started:
                os.kill(claim.owner.pid, signal.SIGKILL)
                return True
        return False

    def requeue(self) -> bool:
        return self._on_running_job("scontrol", "requeue")

    def warn(self) -> bool:
        return self._on_running_job("scancel", "--batch", "--signal=USR1")

    def submit_again(self) -> bool:
        actions.run(self.path, launcher="slurm", jobs=PARALLEL, worker=WORKER, overrides=WORDS)
        return True

    def restart_controller(self) -> bool:
        self.cluster.end("slurmctld")
        time.sleep(1.0)
        self.cluster.start_controller()
        return True

    def kill_node(self) -> bool:
        self.cluster.end("n2", signal.SIGKILL)
        time.sleep(1.0)
        self.cluster.start_node(2)
        return True

    def _on_running_job(self, *command: str) -> bool:
        jobs = [job for job, state in self.cluster.jobs().items() if state == "RUNNING"]
        if jobs:
            # scancel tries for a long time where a job is just starting or ending.
            self.cluster.call(*command, self.random.choice(jobs), seconds=3.0)
        return bool(jobs)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One that no other test has to use afterwards."""
    started = Cluster(Path(tempfile.mkdtemp(prefix="ablate-slurm-")))
    yield started
    started.stop()


@pytest.mark.timeout(CHAOS_SECONDS + 600)
def test_chaos(
    cluster: Cluster, make_sweep: Callable[..., str], behave: Callable, root: Path, tmp_path: Path, capsys
) -> None:
    path = make_sweep(axes=AXES, scales=SCALES, report=REPORT)
    behave(steps=CHAOS_SECONDS / 60)  # so that undisturbed runs would be done about when the faults end
    planned = plan(path)
    assert len(planned.groups()) == 30 and len(planned.cells) == 60
    actions.run(path, launcher="slurm", jobs=PARALLEL, worker=WORKER, overrides=WORDS)
    faults = Faults(cluster, planned, path, int(os.environ.get("CHAOS_SEED", "0")))
    deadline = time.monotonic() + CHAOS_SECONDS
    while time.monotonic() < deadline:
        faults.inject()
        time.sleep(0.2 + CHAOS_SECONDS / 400)
    behave(steps=0.05)
    _finish(cluster, path)

    attempts = []
    for group in planned.groups():
        run = RunStore(root).run(group.id)
        assert [line["step"] for line in run.metrics()] == list(range(1, 11)), "each step exactly once"
        attempts.append(run.attempts)
    assert _table(path, root) == _table(path, _undisturbed(planned, tmp_path / "undisturbed"))
    with capsys.disabled():
        kinds = ", ".join(f"{count} x {kind}" for kind, count in faults.injected.items())
        print(
            f"\nchaos: {sum(faults.injected.values())} faults in {CHAOS_SECONDS} s ({kinds}); lost: 0 of 30 runs,",
            end=" ",
        )
        print(f"{sum(attempts)} attempts; refused by a controller that was away: {sum(faults.refused.values())}")
    assert len(faults.injected) >= 3 and sum(faults.injected.values()) > CHAOS_SECONDS / 4


def _table(path: str, root: Path) -> list[tuple[dict[str, str], list[str]]]:
    """Labels and entries of the report's table, row by row."""
    table = load_subject(path, root=root).table
    return [(dict(row.labels), [entry.text for entry in row.entries]) for row in table.rows]


def _undisturbed(planned: Plan, root: Path) -> Path:
    """Outputs as they are where nothing goes wrong, written without any process."""
    store = RunStore(root)
    for cell in planned.cells:
        run = store.prepare(cell.config)
        with run.claim() as mine:
            if mine:
                run.write_result({"step": 10, "max_steps": 10, "metrics": {"val/loss": 0.5}})
        evaluation = run.prepare_evaluation(cell.config)
        with evaluation.claim():
            evaluation.write_result({"metrics": {"fd_efflite0": cell.config.sampler.guidance}})
    return root


def _finish(cluster: Cluster, path: str) -> None:
    """Ask again, as a person would, until all is done."""

    def done() -> bool:
        with suppress(UserError, CellError, SubprocessError):
            states = plan(path).states()
            if all(state.state == "done" for state in states.values()):
                return True
            if any(state.is_open for state in states.values()):
                actions.run(path, launcher="slurm", jobs=PARALLEL, worker=WORKER, overrides=WORDS)
        return False

    cluster.wait_until(done, "the sweep did not get done", 180 + CHAOS_SECONDS)
