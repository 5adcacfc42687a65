"""The Slurm launcher on a real Slurm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.store import RunStore
from sweeps import actions, views
from sweeps.interventions import failed_cells, wait_for_ends
from sweeps.planner import plan
from sweeps.slurm import SlurmLauncher
from sweeps.submissions import read_submissions, write_submissions
from tests.sweeps.conftest import WORKER
from tests.sweeps.slurm_cluster import Cluster
from tests.sweeps.slurm_steps import states, submit, task, wait_done
from tests.sweeps.steps import Make

pytestmark = pytest.mark.usefixtures("slurm_here")
SUBMIT = "import sys; from sweeps import actions; actions.run(sys.argv[1], launcher='slurm', worker=sys.argv[2:])"
ONE = [{"name": "scheme", "key": "generator.hybrid_scheme", "values": ["serial_v1"]}]
SIX = [{"name": "width", "key": "generator.width", "values": [32, 64, 96, 128, 160, 192]}]


def test_array_runs_once_with_limited_parallelism(
    cluster: Cluster, make_sweep: Make, behave: Callable, trainings: Callable, capsys
) -> None:
    path = make_sweep(axes=SIX, report={})
    behave(steps=0.1)
    begun = time.monotonic()
    assert submit(path, jobs=2) == 0
    assert time.monotonic() - begun < 5.0, "submitting returns at once"
    assert submit(path, jobs=2) == 0, "what is queued is left alone"
    assert len(read_submissions(plan(path).folder)) == 1
    most = 0
    while set(states(path).values()) != {"done"}:
        jobs = cluster.jobs()
        most = max(most, sum(state == "RUNNING" and "_" in job for job, state in jobs.items()))
        assert time.monotonic() - begun < 90
        time.sleep(0.2)
    assert most == 2 and len(trainings()) == 6
    capsys.readouterr()
    assert submit(path) == 0 and "Nothing to do" in capsys.readouterr().out
    uid = read_submissions(plan(path).folder)[0].uid
    script = (plan(path).folder / "jobs" / f"{uid}.sbatch").read_text()
    assert "#SBATCH --array=0-5%2" in script and "srun" in script


def test_failed_cell_has_its_reason_and_can_be_retried(
    cluster: Cluster, make_sweep: Make, behave: Callable, trainings: Callable, capsys
) -> None:
    path = make_sweep()
    behave(serial_v1="fail", linger=5)  # the job is not over when its run says that it failed
    submit(path)
    cluster.wait_until(lambda: sorted(x[:6] for x in states(path).values()) == ["done", "done", "failed"], "no end")
    assert "out of memory" in states(path)["scheme=serial_v1"]
    assert views.logs(path, "serial_v1") == 0
    assert "MemoryError" in capsys.readouterr().out
    planned = plan(path)
    with pytest.raises(UserError, match=r"serial_v1 failed, but its job \d+_1 is still at work"):
        wait_for_ends(planned, failed_cells(planned, []), print, patience=0)
    behave()
    assert actions.retry(path, where=["cause=oom"], launcher="slurm", worker=WORKER) == 0
    wait_done(cluster, path)
    assert len(trainings()) == 4


def test_warning_and_requeue_go_on_where_they_stopped(
    cluster: Cluster, make_sweep: Make, behave: Callable, trainings: Callable, root: Path
) -> None:
    path = make_sweep()
    behave(steps=0.5)
    submit(path)
    cluster.wait_until(lambda: sum("running" in s for s in states(path).values()) == 3, "not running")
    cluster.call("scancel", "--batch", "--signal=USR1", task(path, "group_v1"))  # as the time limit's warning does
    cluster.call("scontrol", "requeue", task(path, "serial_v1"))
    time.sleep(1.0)
    assert any(state.startswith(("queued", "interrupted", "starting")) for state in states(path).values())
    assert submit(path) == 0 and len(read_submissions(plan(path).folder)) == 1, "requeued is not resubmitted"
    wait_done(cluster, path)
    assert sorted(trainings()) == ["group_v1", "group_v1", "serial_v1", "serial_v1", "serial_v2"]
    for cell in plan(path).cells:
        run = RunStore(root).run(cell.run_id)
        assert [line["step"] for line in run.metrics()] == list(range(1, 11)), "no step twice, none left out"


def test_a_killed_task_goes_on_by_itself(
    cluster: Cluster, make_sweep: Make, behave: Callable, trainings: Callable, tmp_path: Path
) -> None:
    path = make_sweep(axes=ONE, report={})
    behave(steps=0.3)
    submit(path)
    cluster.wait_until(lambda: "running" in str(states(path)), "not running")
    os.kill(int((tmp_path / "trainings.txt").read_text().split()[1]), signal.SIGKILL)
    wait_done(cluster, path)
    assert trainings() == ["serial_v1", "serial_v1"]


def test_two_submitters_at_once_submit_everything_once(
    cluster: Cluster, make_sweep: Make, behave: Callable, trainings: Callable
) -> None:
    path = make_sweep(axes=SIX, report={})
    behave(steps=0.01)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SUBMIT, path, *WORKER], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(2)
    ]
    for process in both:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    assert len(read_submissions(plan(path).folder)) == 1
    wait_done(cluster, path)
    assert len(trainings()) == 6


def test_arrays_are_split_and_lost_ids_found_again(
    cluster: Cluster, make_sweep: Make, trainings: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.slurm.max_array_size", lambda: 4)
    path = make_sweep(axes=SIX, report={})
    submit(path)
    folder = plan(path).folder
    known = read_submissions(folder)
    assert [len(item.groups) for item in known] == [4, 2]
    # As if the submitter had died between sbatch and noting the id, and once before sbatch.
    lost = replace(known[0], job="")
    write_submissions(folder, [lost, known[1], replace(lost, uid="never-submitted")])
    SlurmLauncher(plan(path), worker=WORKER).launch()
    assert read_submissions(folder)[:2] == known and len(read_submissions(folder)) == 2
    wait_done(cluster, path)
    assert len(trainings()) == 6


def test_queued_code_is_the_code_that_was_submitted(
    cluster: Cluster, make_sweep: Make, monkeypatch, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    (project / "sweeps").mkdir(parents=True)
    (project / "spam.py").write_text("")
    for name in ("experiments", "lightning_modules", "datamodules", "reports"):
        (project / name).mkdir()
    source = project / "experiments" / "which.py"
    source.write_text("import pathlib, sys; pathlib.Path(sys.argv[1]).parent.joinpath('code').write_text('old')")
    (project / "experiments" / "__init__.py").write_text("")
    monkeypatch.setattr("sweeps.snapshot.PROJECT", project)
    path = make_sweep(axes=ONE, report={})
    cluster.call("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        actions.run(path, launcher="slurm", worker=(sys.executable, "-m", "experiments.which"))
        source.write_text(source.read_text().replace("old", "new"))
    finally:
        cluster.call("scontrol", "update", "PartitionName=main", "State=UP")
    jobs = plan(path).folder / "jobs" / plan(path).cells[0].run_id
    cluster.wait_until((jobs / "code").exists, "did not run")
    assert (jobs / "code").read_text() == "old"


def test_the_report_runs_last(cluster: Cluster, make_sweep: Make, behave: Callable) -> None:
    path = make_sweep()
    behave(serial_v1="fail", steps=0.1)
    submit(path)
    script = next(plan(path).folder.glob("jobs/*-report.sbatch")).read_text()
    assert f"--dependency=afterany:{read_submissions(plan(path).folder)[0].job}" in script
    report = next(line for line in script.splitlines() if line.startswith("exec"))
    assert f"report {plan(path).folder / 'definition' / 'tiny.yaml'} --scale demo" in report
    log = plan(path).folder / "logs" / "report.log"
    cluster.wait_until(log.exists, "the report did not run")
    assert not any("running" in state or "queued" in state for state in states(path).values())


def test_cancel_ends_queued_and_running_jobs(cluster: Cluster, make_sweep: Make, behave: Callable, capsys) -> None:
    path = make_sweep(axes=SIX, report={})
    behave(steps=0.5)
    submit(path, jobs=1)
    cluster.wait_until(lambda: any("running" in state for state in states(path).values()), "not running")
    assert sum("queued" in state for state in states(path).values()) == 5
    capsys.readouterr()
    assert views.status(path, as_json=True) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert sorted(cell["queued"] for cell in cells) == [""] + [task(path, cell.name) for cell in plan(path).cells][1:]
    capsys.readouterr()
    assert actions.cancel(path, dry_run=True) == 0
    assert capsys.readouterr().out.count("would stop") == 6
    assert any("running" in state for state in states(path).values())
    assert actions.cancel(path, confirm=lambda question: True) == 0
    cluster.wait_until(
        lambda: not any("queued" in s or "running" in s or "starting" in s for s in states(path).values()),
        "still there",
    )


def test_a_sweep_run_right_after_its_cancellation_goes_on(
    cluster: Cluster, make_sweep: Make, behave: Callable, trainings: Callable
) -> None:
    """The jobs that were cancelled are still ending when it is run again."""
    path = make_sweep(axes=ONE, report={})
    behave(steps=0.5, heedless=3)
    submit(path)
    cluster.wait_until(lambda: "running" in str(states(path)), "not running")
    assert actions.cancel(path, confirm=lambda question: True) == 0
    behave()
    submit(path)
    wait_done(cluster, path)
    assert len(trainings()) == 2 and len(read_submissions(plan(path).folder)) == 2


def test_leaked_variables_of_a_surrounding_job_do_not_reach_the_new_one(
    cluster: Cluster, make_sweep: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_OUTPUT", "/none/job.log")  # a user's own, which the script's line must outweigh
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    path = make_sweep()
    assert submit(path, overrides=["resources.memory=300M", "resources.cpus=1"]) == 0
    wait_done(cluster, path)


def test_refusals_are_one_sentence_and_leave_nothing_queued(cluster: Cluster, make_sweep: Make) -> None:
    path = make_sweep()
    with pytest.raises(UserError, match="Slurm refused sbatch: .*[Ii]nvalid partition"):
        submit(path, overrides=["resources.partition=none"])
    with pytest.raises(UserError, match="cannot be shared among 3 processes"):
        submit(path, overrides=["resources.nodes=3"])
    assert submit(path) == 0
    wait_done(cluster, path)
