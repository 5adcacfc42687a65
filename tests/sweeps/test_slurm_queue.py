"""What depends on what in the queue of a real Slurm: searches, timings, evaluations, pre-emption, failing nodes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from experiments.search.study import open_study
from experiments.store import RunStore
from sweeps import actions
from sweeps.planner import plan
from sweeps.slurm import SlurmLauncher
from sweeps.submissions import read_submissions
from tests.sweeps.conftest import WORKER
from tests.sweeps.slurm_cluster import Cluster
from tests.sweeps.slurm_steps import arrays, states, submit, task, wait_done
from tests.sweeps.steps import SEARCHER, Make

pytestmark = pytest.mark.usefixtures("slurm_here")
ONE = [{"name": "scheme", "key": "generator.hybrid_scheme", "values": ["serial_v1"]}]
APART = "resources.evaluation={cpus: 1, time: '5'}"


def test_evaluations_wait_for_their_trainings(
    cluster: Cluster, make_sweep: Make, behave: Callable, trainings: Callable
) -> None:
    path = make_sweep()
    behave(steps=0.2, serial_v1="fail")
    told = arrays(SlurmLauncher(plan(path, "demo", [APART])))
    assert told[1] == "would submit an array of 3 task(s): evaluations, each after its training; 1 node(s), CPUs"
    submit(path, overrides=[APART])
    train, evaluate = read_submissions(plan(path).folder)
    assert train.groups == evaluate.groups
    script = (plan(path).folder / "jobs" / f"{evaluate.uid}.sbatch").read_text()
    assert f"#SBATCH --dependency=aftercorr:{train.job}\n" in script and "#SBATCH --time=5\n" in script
    index = train.groups.index(plan(path).find("serial_v2").group)
    cluster.wait_until(lambda: "serial_v2" in trainings(), "not running")
    cluster.call("scontrol", "requeue", f"{train.job}_{index}")
    assert not any("_" in job and job.startswith(evaluate.job) for job, s in cluster.jobs().items() if s == "RUNNING")
    ended = ["done", "done", "failed"]
    cluster.wait_until(lambda: sorted(x[:6] for x in states(path).values()) == ended, f"{states(path)}")
    assert sorted(trainings()) == ["group_v1", "serial_v1", "serial_v2", "serial_v2"], "evaluations trained nothing"
    jobs = cluster.jobs()
    assert jobs.get(f"{evaluate.job}_1", "CANCELLED") == "CANCELLED", "of a training that failed"
    behave()
    assert actions.retry(path, overrides=[APART], launcher="slurm", worker=WORKER) == 0
    wait_done(cluster, path)


def test_a_training_that_two_sweeps_share_is_done_by_one_job_while_the_other_holds_nothing(
    cluster: Cluster, make_sweep: Make, behave: Callable, trainings: Callable
) -> None:
    path, other = make_sweep(axes=ONE, report={}), make_sweep("other", axes=ONE, report={})
    behave(steps=0.3)
    cluster.call("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        submit(path)
        submit(other)
    finally:
        cluster.call("scontrol", "update", "PartitionName=main", "State=UP")
    first, second = task(path, "serial_v1"), task(other, "serial_v1")
    while (jobs := cluster.jobs())[first] in ("PENDING", "RUNNING", "COMPLETING"):
        assert jobs[second] == "PENDING"
        time.sleep(0.2)
    cluster.wait_until(lambda: cluster.jobs()[second] == "COMPLETED", "the second did not end")
    assert trainings() == ["serial_v1"] and {*states(path).values(), *states(other).values()} == {"done"}


def test_a_trained_run_is_only_evaluated(
    cluster: Cluster, make_sweep: Make, root: Path, trainings: Callable, behave: Callable
) -> None:
    path = make_sweep(axes=ONE, report={})
    run = RunStore(root).prepare(plan(path).cells[0].config)
    with run.claim():
        run.write_result({"step": 10, "max_steps": 10, "metrics": {}})
    submit(path, overrides=[APART])
    (only,) = read_submissions(plan(path).folder)
    wait_done(cluster, path)
    assert not trainings()
    assert "--part evaluate" in (plan(path).folder / "jobs" / f"{only.uid}.sbatch").read_text()


def test_a_pre_empted_task_is_requeued_and_goes_on(
    cluster: Cluster, make_sweep: Make, behave: Callable, trainings: Callable, root: Path
) -> None:
    path = make_sweep(axes=ONE, report={})
    behave(steps=0.4)
    submit(path, overrides=["resources.partition=low"])
    cluster.wait_until(lambda: "running" in str(states(path)), "not running")
    begun = time.monotonic()
    command = ["sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1"]
    cluster.call(*command)
    cluster.wait_until(lambda: len(trainings()) == 2, "was not requeued")
    assert time.monotonic() - begun < 14, "it made room at once, before the time of grace was over"
    wait_done(cluster, path)
    run = RunStore(root).run(plan(path).cells[0].run_id)
    assert [line["step"] for line in run.metrics()] == list(range(1, 11))


def test_a_cancelled_task_stays_cancelled(cluster: Cluster, make_sweep: Make, behave: Callable) -> None:
    """The run is told to stop as by a pre-emption, but its job is ending."""
    path = make_sweep(axes=ONE, report={})
    behave(steps=0.4)
    submit(path)
    cluster.wait_until(lambda: "running" in str(states(path)), "not running")
    cluster.call("scancel", task(path, "serial_v1"))
    cluster.wait_until(lambda: cluster.jobs()[task(path, "serial_v1")] == "CANCELLED", "not cancelled")
    time.sleep(1.0)
    assert cluster.jobs()[task(path, "serial_v1")] == "CANCELLED"


def test_a_task_of_a_node_that_failed_goes_on(
    cluster: Cluster, make_sweep: Make, behave: Callable, trainings: Callable, root: Path
) -> None:
    path = make_sweep(axes=ONE, report={})
    behave(steps=0.4)
    submit(path)
    cluster.wait_until(lambda: "running" in str(states(path)), "not running")
    node = cluster.call("squeue", "-h", "-j", task(path, "serial_v1"), "-o", "%N").strip()
    # The node itself comes back, since its daemon is well.
    cluster.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    cluster.wait_until(lambda: len(trainings()) == 2, "did not go on")
    wait_done(cluster, path)
    run = RunStore(root).run(plan(path).cells[0].run_id)
    assert [line["step"] for line in run.metrics()] == list(range(1, 11)) and run.attempts == 2


def test_four_jobs_search_and_no_trial_is_lost_or_doubled(
    cluster: Cluster, make_sweep: Make, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "trials.txt"
    monkeypatch.setenv("SEARCH_WORKER_LOG", str(log))
    monkeypatch.setenv("SEARCH_WORKER_SECONDS", "0.5")
    space = [{"key": "sampler.guidance", "low": 1.0, "high": 9.0}]
    path = make_sweep(axes=ONE, report={}, search={"space": space, "trials": 16, "jobs": 4})
    run = RunStore(root).prepare(plan(path).cells[0].config)
    with run.claim():
        run.write_result({"step": 10, "max_steps": 10, "metrics": {}})
    assert actions.run(path, launcher="slurm", worker=SEARCHER) == 0
    assert len(read_submissions(plan(path).folder)[0].groups) == 4
    cluster.wait_until(lambda: log.exists() and len(log.read_text().split()) >= 12, "the search did not begin")
    assert actions.run(path, launcher="slurm", worker=SEARCHER) == 0
    assert len(read_submissions(plan(path).folder)) == 1, "what is at work is left alone"
    os.kill(int(log.read_text().split()[-1]), signal.SIGKILL)
    wait_done(cluster, path)
    cell = plan(path).cells[0]
    search = RunStore(root).search(cell.search_id)
    result = search.result()
    assert result is not None
    numbers = [trial["number"] for trial in result["trials"]]
    assert len(numbers) == len(set(numbers)) == 16
    journal = open_study(search.journal_path, cell.config.search).get_trials()
    complete = {trial.number: trial.value for trial in journal if trial.state == TrialState.COMPLETE}
    assert complete == {trial["number"]: trial["metrics"]["fd_efflite0"] for trial in result["trials"]}
    begun = [line.split() for line in log.read_text().splitlines()]
    assert len(begun) == 17 and len({pid for _, pid in begun}) >= 4, "one trial was begun twice: the killed one"


def test_a_search_waits_for_the_training_that_its_trials_share(
    cluster: Cluster, make_sweep: Make, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one hand trains, the others would hold their devices idle."""
    log = tmp_path / "trials.txt"
    monkeypatch.setenv("SEARCH_WORKER_LOG", str(log))
    monkeypatch.setenv("SEARCH_WORKER_SECONDS", "0.5")
    space = [{"key": "sampler.guidance", "low": 1.0, "high": 9.0}]
    path = make_sweep(axes=ONE, report={}, search={"space": space, "trials": 6, "jobs": 3})
    told = [line.partition(": ")[2] for line in arrays(SlurmLauncher(plan(path)))]
    after = "searches, each after its training; 1 node(s), CPUs"
    assert told == ["trainings; 1 node(s), CPUs", *[after] * 3]
    assert len(arrays(SlurmLauncher(plan(path), parallel=2))) == 3, "no more hands than may work at once"
    assert actions.run(path, launcher="slurm", worker=SEARCHER) == 0
    train, *search = read_submissions(plan(path).folder)
    assert len(search) == 3 and all(item.groups == train.groups for item in search)
    run = RunStore(root).run(plan(path).cells[0].run_id)
    while not run.is_done():
        busy = [job for job, state in cluster.jobs().items() if state == "RUNNING" and "_" in job]
        assert busy in ([], [f"{train.job}_0"]) or run.is_done()
        time.sleep(0.1)
    wait_done(cluster, path)
    begun = [line.split() for line in log.read_text().splitlines()]
    assert len(begun) == 6 and len({pid for _, pid in begun}) == 3


def test_timings_have_their_node_to_themselves(cluster: Cluster, make_sweep: Make) -> None:
    overrides = {"benchmark.name": "layer", "benchmark.width": 32, "benchmark.heads": 2}
    layers = {"name": "layer", "key": "benchmark.layer", "values": ["attention", "bi_mamba_v2"]}
    scales = {"demo": {"preset": "", "overrides": overrides}}
    path = make_sweep(measure="benchmark", axes=[layers], scales=scales, report={})
    assert submit(path) == 0
    wait_done(cluster, path)
    (item,) = read_submissions(plan(path).folder)
    assert len(item.groups) == 2
    assert "OverSubscribe=NO" in cluster.call("scontrol", "show", "job", f"{item.job}_0")
