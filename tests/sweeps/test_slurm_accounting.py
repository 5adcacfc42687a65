"""Why jobs ended that a real Slurm has forgotten, told by its real accounts; and arrays of no more than it takes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments import slurm
from sweeps.planner import plan
from sweeps.submissions import read_submissions
from tests.sweeps import slurm_accounts, slurm_cluster
from tests.sweeps.slurm_cluster import Cluster
from tests.sweeps.slurm_steps import states, submit, task, wait_done

missing = slurm_cluster.missing() or slurm_accounts.missing()
pytestmark = [pytest.mark.skipif(bool(missing), reason=missing), pytest.mark.usefixtures("slurm_here")]
SIX = [{"name": "width", "key": "generator.width", "values": [32, 64, 96, 128, 160, 192]}]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One that forgets jobs soon, takes small arrays, and keeps accounts."""
    folder = Path(tempfile.mkdtemp(prefix="ablate-slurm-"))
    started = Cluster(folder, max_array=4, forget=2, accounts=slurm_accounts.keep_accounts)
    yield started
    started.stop()


def test_arrays_are_no_longer_than_the_cluster_takes(
    cluster: Cluster, make_sweep: Callable[..., str], trainings: Callable
) -> None:
    path = make_sweep(axes=SIX, report={})
    submit(path)
    assert [len(item.groups) for item in read_submissions(plan(path).folder)] == [4, 2]
    wait_done(cluster, path)
    assert len(trainings()) == 6


def test_forgotten_jobs_have_their_reasons(
    cluster: Cluster, make_sweep: Callable[..., str], behave: Callable, trainings: Callable
) -> None:
    path = make_sweep(axes=[{**SIX[0], "values": [32, 64, 96]}], report={})
    behave(steps=60.0)
    submit(path, overrides=["resources.partition=low"])
    cluster.wait_until(lambda: sum("running" in s for s in states(path).values()) == 3, "not running")
    cells = [cell.name for cell in plan(path).cells]
    jobs = [task(path, name) for name in cells]
    for job in jobs:  # a site that requeues nothing
        cluster.call("scontrol", "update", f"JobId={job}", "Requeue=0")
    node = cluster.call("squeue", "-h", "-j", jobs[0], "-o", "%N").strip()
    cluster.call("scancel", jobs[2])
    cluster.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    cluster.wait_until(lambda: cluster.jobs().get(jobs[0]) != "RUNNING", "the node's job did not end")
    if jobs[1] in cluster.jobs():
        cluster.call("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "true")
    cluster.wait_until(lambda: not cluster.jobs().keys() & set(jobs), "not forgotten")
    ended = slurm.ended_jobs(jobs)
    assert ended[jobs[0]] == "NODE_FAIL" and ended[jobs[2]] == "CANCELLED"
    assert ended[jobs[1]] in ("PREEMPTED", "NODE_FAIL")
    found = {name: state.status.cause for name, state in plan(path).states().items()}
    reasons = {"NODE_FAIL": "killed", "CANCELLED": "", "PREEMPTED": "preempted"}
    assert found == {name: reasons[ended[job]] for name, job in zip(cells, jobs, strict=True)}
    behave()
    assert submit(path) == 0, "what ended from outside goes on by itself"
    wait_done(cluster, path)
