"""Thirty short runs on a real Slurm under random kills, requeues and restarts of daemons: nothing lost, nothing twice.

CHAOS_SECONDS (default 60) says for how long faults are injected, CHAOS_SEED which.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import SubprocessError

import pytest

from experiments.claims import newest_claim, process_start
from experiments.errors import UserError
from experiments.store import RunStore
from sweeps import commands
from sweeps.planner import Plan, plan
from tests.sweeps.conftest import WORKER
from tests.sweeps.slurm_cluster import Cluster, missing
from tests.sweeps.test_slurm import cluster, slurm_here  # noqa: F401

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.slow]
AXES = [
    {"name": "scheme", "key": "generator.hybrid_scheme", "values": ["serial_v1", "serial_v2", "group_v1"]},
    {"name": "guidance", "key": "sampler.guidance", "values": [1.0, 2.0]},
]
SCALES = {"demo": {"preset": "", "seeds": list(range(10))}}


class Faults:
    """Things that go wrong on clusters."""

    def __init__(self, cluster: Cluster, planned: Plan, path: str, seed: int):  # noqa: F811
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
        except (SubprocessError, UserError, ProcessLookupError):
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
        commands.run(self.path, launcher="slurm", jobs=4, worker=WORKER)
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


@pytest.mark.timeout(900)
def test_chaos(cluster: Cluster, make_sweep: Callable[..., str], behave: Callable, root: Path) -> None:  # noqa: F811
    path = make_sweep(axes=AXES, scales=SCALES, report={})
    behave(steps=1.0)
    planned = plan(path)
    assert len(planned.groups()) == 30 and len(planned.cells) == 60
    commands.run(path, launcher="slurm", jobs=4, worker=WORKER)
    faults = Faults(cluster, planned, path, int(os.environ.get("CHAOS_SEED", "0")))
    deadline = time.monotonic() + float(os.environ.get("CHAOS_SECONDS", "60"))
    while time.monotonic() < deadline:
        faults.inject()
        time.sleep(0.3)
    behave()
    _finish(cluster, path)

    attempts = []
    for cell in planned.cells:
        run = RunStore(root).run(cell.run_id)
        evaluation = run.evaluation(cell.eval_id).result()
        assert evaluation and evaluation["metrics"] == {"fd_efflite0": cell.config.sampler.guidance}
        assert [line["step"] for line in run.metrics()] == list(range(1, 11)), "each step exactly once"
        attempts.append(run.attempts)
    print(f"faults injected: {dict(faults.injected)}; attempts: {sum(attempts[::2])} for 30 runs; lost: 0")
    print(f"refused: {dict(faults.refused)}")
    assert sum(faults.injected.values()) > 0


def _finish(cluster: Cluster, path: str) -> None:  # noqa: F811
    """Ask again, as a person would, until all is done."""

    def done() -> bool:
        with suppress(UserError, SubprocessError):
            states = plan(path).states()
            if all(state.state == "done" for state in states.values()):
                return True
            if any(state.is_open for state in states.values()):
                commands.run(path, launcher="slurm", jobs=4, worker=WORKER)
        return False

    cluster.wait_until(done, 240, "the sweep did not get done")
