"""What is made of Slurm's answers, and of none: stand-ins for its commands tell how jobs are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from experiments import slurm
from experiments.cli import main
from experiments.errors import UserError
from experiments.slurm import JobState
from experiments.store import RunStore
from sweeps import actions, views
from sweeps.planner import Plan, plan
from sweeps.queue import read_queue
from sweeps.registry import register
from sweeps.slurm import PartlySubmitted
from sweeps.slurm_commands import sbatch, scancel
from sweeps.submissions import Submission, read_submissions, write_submissions
from tests.sweeps.slurm_steps import states, submit
from tests.sweeps.steps import Make, run
from tests.sweeps.test_accounting import command  # noqa: F401

Command = Callable[[str, str], None]
ONE = [{"name": "scheme", "key": "generator.hybrid_scheme", "values": ["serial_v1"]}]
NAME = "scheme=serial_v1"
APART = "resources.evaluation={cpus: 1}"


@pytest.fixture
def queue(command: Command, tmp_path: Path) -> Iterator[Path]:  # noqa: F811
    """The rows of squeue's answer. Each submission adds one as of an array's first task and one as of a job by itself,
    which wait; from the job on whose number stands in the file `refused`, submissions are refused."""
    rows, refused = tmp_path / "queue", tmp_path / "refused"
    rows.touch()
    command("squeue", f"cat {rows}")
    command("scontrol", "echo ClusterName = here; echo MaxArraySize = 1000")
    asked = 'case "$*" in *--test-only*) cat > /dev/null; exit 0;; esac'
    refuse = f"if [ -e {refused} ] && [ $job -ge $(cat {refused}) ]; then echo QOSMaxSubmit >&2; exit 1; fi"
    comment = "mark=$(sed -n 's/^#SBATCH --comment=//p' $2)"
    add = f'printf "%s_0|PENDING|Priority|%s\\n%s|PENDING|Priority|%s\\n" $job $mark $job $mark >> {rows}'
    command("sbatch", f"{asked}; job=$(($(wc -l < {rows}) / 2 + 1)); {refuse}; {comment}; {add}; echo $job")
    command("scancel", ":")
    slurm.cluster_name.cache_clear()
    yield rows
    slurm.cluster_name.cache_clear()


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, tuple[str, str]] | None], None]:
    """Set what Slurm says of its jobs; None if it does not answer."""

    def set_to(jobs: dict[str, tuple[str, str]] | None) -> None:
        known = None if jobs is None else {job: JobState(*found) for job, found in jobs.items()}
        monkeypatch.setattr(slurm, "job_states", lambda max_age=0.0: known)
        monkeypatch.setattr(slurm, "ended_jobs", lambda jobs: {})

    return set_to


def submitted(path: str, **parts: str) -> Plan:
    """A sweep that was begun, as if an array with each of these ids were submitted for all groups: id -> part."""
    planned = plan(path)
    register(planned)
    groups = [group.id for group in planned.groups()]
    items = [Submission(f"u{job[1:]}", job[1:], groups, 0.0, part) for job, part in parts.items()]
    write_submissions(planned.folder, items)
    return planned


@pytest.mark.parametrize(
    ("end", "state", "cause"),
    [
        ("OUT_OF_MEMORY", "failed", "oom"),
        ("TIMEOUT", "missing", "time_limit"),
        ("NODE_FAIL", "missing", "killed"),
        ("FAILED", "failed", "killed"),
    ],
)
def test_an_evaluation_that_is_dropped_does_not_hide_how_its_training_ended(
    make_sweep: Make, answer: Callable, end: str, state: str, cause: str
) -> None:
    path = make_sweep(axes=ONE, report={})
    submitted(path, j10="train", j11="evaluate")
    answer({"10_0": (end, ""), "11_0": ("CANCELLED", "DependencyNeverSatisfied")})
    found = plan(path).states()[NAME]
    assert (found.state, found.status.cause) == (state, cause)


def test_an_older_list_of_submissions_is_read(make_sweep: Make, answer: Callable) -> None:
    path = make_sweep(axes=ONE, report={})
    folder = submitted(path, j10="all").folder
    file = folder / "jobs" / "submissions.json"
    old = [{key: item[key] for key in ("uid", "job", "groups", "at")} for item in json.loads(file.read_text())]
    file.write_text(json.dumps(old))
    answer({"10_0": ("PENDING", "Priority")})
    assert states(path) == {NAME: "queued (job 10_0: Priority)"}


@pytest.mark.parametrize("damaged", ["", "[{", "[3]", '[{"job": "10"}]'])
def test_jobs_are_cancelled_before_a_damaged_list_of_them_is_removed(make_sweep: Make, damaged: str) -> None:
    path = make_sweep(axes=ONE, report={})
    folder = submitted(path, j10="all").folder
    (folder / "jobs" / "submissions.json").write_text(damaged)
    with pytest.raises(UserError, match="submissions.json is damaged; cancel the sweep's jobs with scancel and remove"):
        plan(path).states()


def test_the_end_of_an_older_job_says_nothing_of_a_later_attempt(make_sweep: Make, answer: Callable) -> None:
    path = make_sweep(axes=ONE, report={})
    planned = submitted(path, j10="all")
    answer({"10_0": ("OUT_OF_MEMORY", "")})
    prepared = RunStore(planned.root).prepare(planned.cells[0].config)
    status = {"state": "running", "phase": "train", "step": 7, "max_steps": 10, "host": "elsewhere", "pid": 1}
    for job, state in {"99_0": "interrupted", "": "interrupted", "10_0": "failed"}.items():
        prepared.status_path.write_text(json.dumps({**status, "job": job}))
        assert plan(path).states()[NAME].state == state


def test_cancel_status_and_a_local_run_say_that_slurm_does_not_answer(
    make_sweep: Make, answer: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_sweep(axes=ONE, report={})
    submitted(path, j10="all")
    answer(None)
    unknown = "Whether jobs for 1 training(s) are queued is not known: Slurm does not answer"
    assert actions.cancel(path, confirm=lambda question: True) == 1
    said = capsys.readouterr().out
    assert unknown in said and "Nothing to stop" not in said
    views.status(path)
    assert unknown in capsys.readouterr().out
    views.status(path, as_json=True)
    assert json.loads(capsys.readouterr().out)["queue_known"] is False
    assert run(path) == 0
    assert unknown in capsys.readouterr().out
    views.status(path)
    assert unknown not in capsys.readouterr().out, "all is done"


def test_what_has_a_jobs_number_but_not_its_mark_is_another_job(
    make_sweep: Make, queue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_sweep(axes=ONE, report={})
    assert submit(path) == 0
    slurm.forget_states()
    assert "queued" in states(path)[NAME]
    queue.write_text("1_0|PENDING|Priority|(null)\n2|PENDING|Priority|(null)\n")
    slurm.forget_states()
    assert states(path) == {NAME: "missing"}
    assert actions.cancel(path, confirm=lambda question: True) == 0
    assert "Nothing to stop" in capsys.readouterr().out and not (tmp_path / "scancel.log").exists()


def test_jobs_of_another_cluster_are_unknown_here(make_sweep: Make, queue: Path) -> None:
    path = make_sweep(axes=ONE, report={})
    assert submit(path) == 0
    folder = plan(path).folder
    (item,) = read_submissions(folder)
    assert item.cluster == "here"
    write_submissions(folder, [Submission(**{**asdict(item), "cluster": "there"})])
    assert read_queue(folder).is_unknown(item.groups[0]) and states(path) == {NAME: "missing"}


def test_options_in_the_environment_reach_none_of_slurms_commands(
    command: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (
        "SQUEUE_PARTITION",
        "SACCT_FORMAT",
        "SCANCEL_STATE",
        "SLURM_CLUSTERS",
        "SBATCH_PARTITION",
        "SLURM_CONF",
    ):
        monkeypatch.setenv(name, "given")
    for name in ("squeue", "sacct", "scancel", "sbatch", "scontrol"):
        command(name, f"env | grep -E '^(S[A-Z]+_[A-Z]+)=given' > {tmp_path}/{name}.env; echo 1")
    slurm.cluster_name.cache_clear()
    slurm.cluster_name()
    slurm.cluster_name.cache_clear()
    slurm.job_states(0.0)
    slurm.ended_jobs(["1"])
    scancel(["1"])
    (tmp_path / "script").write_text("#SBATCH --partition=gpu\n")
    sbatch(tmp_path / "script")
    for name in ("squeue", "sacct", "scancel", "sbatch", "scontrol"):
        assert (tmp_path / f"{name}.env").read_text() == "SLURM_CONF=given\n", name


@pytest.mark.parametrize(
    ("printed", "job"),
    [("7", "7"), ("7;cluster", "7"), ("----- Welcome to 2 of 3 -----\n7", "7"), ("Submitted batch job 7", "")],
)
def test_the_jobs_id_is_found_in_what_sbatch_prints(
    command: Command,  # noqa: F811
    tmp_path: Path,
    printed: str,
    job: str,
) -> None:
    command("sbatch", f"echo '{printed}'")
    (tmp_path / "script").touch()
    assert sbatch(tmp_path / "script") == job


def test_a_job_whose_id_is_not_printed_is_found_by_its_mark(make_sweep: Make, queue: Path, command: Command) -> None:  # noqa: F811
    path = make_sweep(axes=ONE, report={})
    command("sbatch", "echo hello")
    with pytest.raises(UserError, match="printed no job's id"):
        submit(path)
    command("squeue", f"cat {queue}")
    command("sbatch", f'mark=$(sed -n "s/^#SBATCH --comment=//p" $2); echo "5|$mark" > {queue}; echo hello')
    assert submit(path) == 0
    assert [item.job for item in read_submissions(plan(path).folder)] == ["5"]


def test_what_slurm_takes_is_named_when_it_refuses_the_rest_and_that_is_submitted_later(
    make_sweep: Make, queue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_sweep(axes=ONE, report={})
    refused = tmp_path / "refused"
    refused.write_text("2")
    with pytest.raises(PartlySubmitted, match=r"QOSMax.* In the queue: 1 \(trainings\)\. .*: evaluations, the rep"):
        submit(path, overrides=[APART])
    refused.write_text("3")
    with pytest.raises(PartlySubmitted, match=r"In the queue: 2 \(evaluations\)\. Not submitted: the report;"):
        submit(path, overrides=[APART])
    folder = plan(path).folder
    train, evaluate = read_submissions(folder)
    assert (train.part, evaluate.part) == ("train", "evaluate") and evaluate.groups == train.groups
    assert "--dependency=aftercorr:1\n" in (folder / "jobs" / f"{evaluate.uid}.sbatch").read_text()
    refused.unlink()
    for _ in range(2):
        assert submit(path, overrides=[APART]) == 0
    assert [item.report for item in read_submissions(folder)] == ["", "3"], "once"
    assert "--dependency=afterany:2\n" in (folder / "jobs" / f"{evaluate.report_uid}.sbatch").read_text()
    refused.write_text("1")
    with pytest.raises(UserError, match="QOSMaxSubmit"):
        submit(make_sweep("other", axes=[{**ONE[0], "values": ["group_v1"]}], report={}))
    with pytest.raises(SystemExit) as ended:
        main(["run", path, "--launcher", "slurm", APART, "seeds=1,2"])
    assert ended.value.code == 2, "nothing at all was submitted"


def test_a_training_that_another_sweep_has_queued_is_waited_for(
    make_sweep: Make, queue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = make_sweep(axes=ONE, report={}), make_sweep("other", axes=ONE, report={})
    assert submit(path) == 0 and submit(other, dry_run=True) == 0
    assert "when 1 task(s) of other sweeps that do the same have ended" in capsys.readouterr().out
    assert submit(other) == 0
    (item,) = read_submissions(plan(other).folder)
    script = (plan(other).folder / "jobs" / f"{item.uid}.sbatch").read_text()
    assert "#SBATCH --dependency=afterany:1_0\n" in script and item.job == "3"
    questions: list[str] = []
    assert actions.cancel(other, confirm=lambda question: not questions.append(question)) == 0
    assert questions == [f"Stop 1 running or queued training(s) and 1 job(s) that wait of {other} --scale demo?"]
    assert (tmp_path / "scancel.log").read_text() == "3_0 4\n", "its own array and its report"


def test_cancel_frees_what_waits_for_a_run_that_goes_on(
    make_sweep: Make, queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two tasks of a sweep one is at work on what another sweep needs, too."""
    path, other = make_sweep(axes=ONE, report={}), make_sweep("other", axes=ONE, report={})
    planned = submitted(path, j10="train", j11="evaluate")
    register(plan(other))
    queue.write_text("10_0|RUNNING|None|u10\n11_0|PENDING|Dependency|u11\n")
    monkeypatch.setenv("SLURM_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    prepared = RunStore(planned.root).prepare(planned.cells[0].config)
    with prepared.claim() as mine:
        assert mine and prepared.status().job == "10_0"
        assert actions.cancel(path, confirm=lambda question: True) == 0
    assert (tmp_path / "scancel.log").read_text() == "11_0\n"
