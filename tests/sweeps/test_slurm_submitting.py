"""What the Slurm launcher submits, with stand-ins for Slurm's commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import slurm
from experiments.cli import main
from experiments.config import read_config
from experiments.errors import UserError
from experiments.store import RunStore
from sweeps import actions
from sweeps.amendments import read_amendments
from sweeps.interventions import wait_for_endings
from sweeps.planner import plan
from sweeps.preview import preview
from sweeps.registry import register
from sweeps.slurm import SlurmLauncher
from sweeps.submissions import read_submissions
from sweeps.table import duration
from tests.sweeps.slurm_steps import arrays, states, submit
from tests.sweeps.steps import Make
from tests.sweeps.test_accounting import command  # noqa: F401

ONE = [{"name": "scheme", "key": "generator.hybrid_scheme", "values": ["serial_v1"]}]
EIGHT = ["resources.nodes=2", "resources.gpus=2"]


@pytest.fixture(autouse=True)
def cluster(command: Callable[[str, str], None], tmp_path: Path) -> None:  # noqa: F811
    """Jobs 1, 2, ..., each of which waits for ever."""
    (tmp_path / "queue").touch()
    command("squeue", f"cat {tmp_path}/queue")
    command("scontrol", "echo MaxArraySize = 1000")
    job = f'job=$(($(wc -l < {tmp_path}/queue) + 1)); echo "${{job}}_0|PENDING|Priority" >> {tmp_path}/queue'
    command("sbatch", f'case "$*" in *--test-only*) cat > /dev/null; exit 0;; esac; {job}; echo $job')


def test_resources_among_the_changes_of_a_retry_are_for_its_jobs(make_sweep: Make) -> None:
    """As after too little memory: they are no cell's own."""
    path = make_sweep(axes=ONE, report={})
    (cell,) = plan(path).cells
    register(plan(path))
    RunStore(plan(path).root).prepare(cell.config).record_failure("oom", "out of memory")
    words = {"overrides": ["resources.memory=1G", "resources.cpus=2"], "change": ["resources.memory=3G"]}
    assert actions.retry(path, launcher="slurm", **words) == 0
    (job,) = read_submissions(plan(path).folder)
    text = (plan(path).folder / "jobs" / f"{job.uid}.sbatch").read_text()
    assert "#SBATCH --mem=3G\n" in text and "#SBATCH --cpus-per-task=2\n" in text
    assert read_amendments(plan(path).folder) == {} and plan(path).cells == (cell,)


def test_the_report_is_of_the_definition_that_was_submitted(make_sweep: Make) -> None:
    path = make_sweep(axes=ONE, report={})
    assert submit(path) == 0
    folder = plan(path).folder
    (script,) = (folder / "jobs").glob("*-report.sbatch")
    words = script.read_text().splitlines()[-1].split()
    name = words[words.index("report") + 1]
    assert name == str(folder / "definition" / "tiny.yaml")
    Path(path).write_text("changed: since\n")
    assert len(plan(name).cells) == 1 and plan(name).folder == folder


def test_the_report_job_goes_where_it_is_told_to(make_sweep: Make, root: Path) -> None:
    """A partition of GPUs may refuse jobs without any."""
    (root / "slurm.yaml").write_text('partition: gpu\ntime: "9:00:00"\ngpus: 1\nreport: {partition: cpu, memory: 4G}')
    path = make_sweep(axes=ONE, report={})
    assert submit(path) == 0
    job, report = (
        next((plan(path).folder / "jobs").glob(f"*{end}")).read_text() for end in ("[!t].sbatch", "-report.sbatch")
    )
    assert "--partition=gpu\n" in job and "--gres=gpu:1\n" in job
    assert "--partition=cpu\n" in report and "--mem=4G\n" in report and "time=" not in report and "gpu" not in report
    with pytest.raises(UserError, match="resources: Key 'partitoin' not in"):
        plan(path, "demo", ["resources.report.partitoin=cpu"])


def test_without_a_report_none_is_submitted(
    make_sweep: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_sweep(axes=ONE, report={"rows": "scheme", "columns": ["fd_efflite0"]})
    for words in (["--no-report", "--dry-run"], ["--no-report"]):
        with pytest.raises(SystemExit, match="0"):
            main(["run", path, "--launcher", "slurm", *words])
        assert "writes the report" not in capsys.readouterr().out
    jobs = plan(path).folder / "jobs"
    assert len(list(jobs.glob("*.sbatch"))) == 1 and len((tmp_path / "queue").read_text().splitlines()) == 1
    assert submit(path) == 0
    assert len(list(jobs.glob("*-report.sbatch"))) == 1, "what is in the queue can still be given one"


def test_a_search_is_for_one_process(make_sweep: Make) -> None:
    """The training that its trials share has all processes."""
    space = [{"key": "sampler.guidance", "low": 1.0, "high": 9.0}]
    path = make_sweep(axes=ONE, report={}, search={"space": space, "jobs": 2})
    assert submit(path, overrides=EIGHT) == 0
    folder = plan(path).folder / "jobs"
    train, *search = [(folder / f"{item.uid}.sbatch").read_text() for item in read_submissions(folder.parent)]
    for text, nodes, gpus in [(train, 2, 2), *((text, 1, 1) for text in search)]:
        for option in (f"nodes={nodes}", f"gres=gpu:{gpus}", f"ntasks-per-node={gpus}"):
            assert f"#SBATCH --{option}\n" in text
    assert len(search) == 2
    configs = {file.stem.rpartition("-")[2]: read_config(file).runtime for file in folder.glob("*/*.yaml")}
    found = {part: (runtime.devices, runtime.num_nodes) for part, runtime in configs.items()}
    assert found == {"train": (2, 2), "evaluate": (1, 1)}


def test_trials_that_are_trainings_have_one_process(make_sweep: Make) -> None:
    path = make_sweep(axes=ONE, report={}, search={"space": [{"key": "optim.lr", "low": 1e-4, "high": 1e-2}]})
    with pytest.raises(UserError, match="not 4: set resources.nodes=1 and resources.gpus=1"):
        submit(path, overrides=EIGHT)
    assert read_submissions(plan(path).folder) == []
    told = arrays(SlurmLauncher(plan(path, "demo", ["resources.gpus=1"])))
    assert told == ["would submit an array of 1 task(s): searches; 1 node(s), 1 GPU(s) per node"]


@pytest.mark.parametrize("name", ["maskmamba-samplers", "head-to-head"])
def test_searches_at_paper_scale_are_for_one_process(name: str, root: Path) -> None:
    told = [line for line in arrays(SlurmLauncher(plan(name, "paper", root=root))) if "searches" in line]
    assert told and all(line.endswith("1 node(s), 1 GPU(s) per node") for line in told)


def test_a_dry_run_refuses_what_is_refused(make_sweep: Make, root: Path) -> None:
    path = make_sweep(axes=ONE, report={})
    for dry in (True, False):
        with pytest.raises(UserError, match="cannot be shared among 3 processes"):
            submit(path, overrides=["resources.gpus=3"], dry_run=dry)
        with pytest.raises(UserError, match="resources.time=2hours must be a time as Slurm reads it"):
            submit(path, overrides=["resources.time=2hours"], dry_run=dry)
    assert not (root / "sweeps").exists(), "nothing is left of it"


def test_a_dry_run_shows_what_would_be_submitted(
    make_sweep: Make, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_sweep(axes=ONE, report={})
    words = ["resources.gpus=2", "resources.cpus=3", "resources.memory=9G", "resources.time=30", "resources.account=me"]
    slow = ["resources.peak_tflops=1e-7", "resources.max_attempts=2"]
    apart = "resources.evaluation={partition: low, gpus: 1}"
    assert submit(path, overrides=[*words, apart, *slow], jobs=1, dry_run=True) == 0
    told = " ".join(capsys.readouterr().out.split())
    train, evaluate = told.split("would submit an array")[1:]
    for option in ("time=30", "cpus-per-task=3", "mem=9G", "gres=gpu:2", "account=me", "array=0-0%1"):
        assert f"#SBATCH --{option} " in train
    assert "partition" not in train and "#SBATCH --partition=low " in evaluate and "gres=gpu:1 " in evaluate
    assert f"script: {plan(path).folder}/jobs/ablate-tiny-*.sbatch" in train
    assert "would submit a job that writes the report when these have ended" in evaluate
    assert not (root / "sweeps").exists()
    planned = plan(path, "demo", [*words, *slow])
    seconds = 3600 * preview(planned)["cells"][0]["device_hours"] / 2
    jobs = -(-seconds // (1800 - 120))
    assert jobs > 2
    assert f"{duration(seconds)} on 2 device(s), more than one job's limit of 30: {jobs:.0f} jobs" in told
    assert "Warning: 1 training(s) take longer than resources.time=30 by this estimate." in told
    assert f"1 would be given up before they are done, such as scheme=serial_v1 after 2 of {jobs:.0f} jobs" in told


def test_a_dry_run_says_what_slurm_would_answer(
    make_sweep: Make,
    command: Callable[[str, str], None],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make_sweep(axes=ONE, report={})
    command("sbatch", "cat > /dev/null; echo Invalid partition >&2; exit 1")
    assert submit(path, dry_run=True) == 0
    assert "Slurm would refuse this now: Invalid partition" in capsys.readouterr().out
    command("scontrol", "echo no controller >&2; exit 1")
    assert submit(path, dry_run=True) == 0
    told = capsys.readouterr().out
    assert "#SBATCH --array=0-0" in told and "would refuse" not in told
    assert "Slurm could not be asked what waits in its queue" in told and "no controller" in told


def test_a_dry_run_leaves_out_what_is_given_up_and_names_missing_files(
    make_sweep: Make, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_sweep(axes=ONE, report={})
    run = RunStore(root).prepare(plan(path).cells[0].config)
    with run.claim():
        pass
    assert submit(path, overrides=["resources.max_attempts=1"], dry_run=True) == 0
    told = capsys.readouterr().out
    assert "would leave  scheme=serial_v1: given up after 1 attempts (resources.max_attempts)" in told
    assert "would submit" not in told and run.inspect().state != "failed", "nothing is noted"
    assert submit(path, overrides=["data.name=imagenet"], dry_run=True) == 0
    assert "would be refused as it stands: data.name=imagenet needs data.root=FOLDER" in capsys.readouterr().out


def test_what_was_just_cancelled_is_submitted_again_when_it_has_ended(
    make_sweep: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, queue = make_sweep(axes=ONE, report={}), tmp_path / "queue"
    assert submit(path) == 0
    queue.write_text("1_0|COMPLETING|None\n")
    slurm.forget_states()
    assert states(path) == {"scheme=serial_v1": "ending (job 1_0)"}
    assert submit(path, dry_run=True) == 0
    assert "would wait for job 1_0 to end first" in capsys.readouterr().out
    monkeypatch.setattr("sweeps.interventions.time.sleep", lambda seconds: queue.write_text("1_0|CANCELLED|None\n"))
    assert submit(path) == 0
    assert "Waiting for job 1_0 to end, which was at work on scheme=serial_v1." in capsys.readouterr().out
    assert len(read_submissions(plan(path).folder)) == 2


def test_a_job_that_does_not_end_is_named_and_left(
    make_sweep: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_sweep(axes=ONE, report={})
    assert submit(path) == 0
    (tmp_path / "queue").write_text("1_0|COMPLETING|None\n")
    wait_for_endings(plan(path), print, patience=0)
    assert "job 1_0 stay out: it has not ended. Run the same again when it has." in capsys.readouterr().out


def test_retry_counts_attempts_afresh(make_sweep: Make, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_sweep(axes=ONE, report={})
    run = RunStore(root).prepare(plan(path).cells[0].config)
    for _ in range(3):
        with run.claim():
            pass
    words = ["resources.max_attempts=3"]
    assert submit(path, overrides=words) == 1, "a cell that failed is no success"
    assert "given up after 3 attempts (resources.max_attempts)" in capsys.readouterr().out
    assert read_submissions(plan(path).folder) == []
    assert actions.retry(path, overrides=words, launcher="slurm", worker=("worker",)) == 0
    assert len(read_submissions(plan(path).folder)) == 1 and run.inspect().state == "stopped"
    for _ in range(3):
        with run.claim():
            pass
    assert run.attempts == 6 and SlurmLauncher(plan(path, "demo", words))._within_attempts(plan(path).groups()) == []
