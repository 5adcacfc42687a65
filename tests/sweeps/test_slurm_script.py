"""Job scripts say what a run of several nodes, GPUs and processes needs. No Slurm is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf.errors import OmegaConfBaseException

from sweeps.config import ResourcesConfig
from sweeps.slurm_commands import sbatch_environment
from sweeps.slurm_script import array_script, report_script


def script(
    processes: int,
    code: Path = Path("/out/code"),
    tasks: Path = Path("/out/tasks.txt"),
    logs: Path = Path("/out/logs"),
    **resources: object,
) -> list[str]:
    return array_script(
        title="a sweep",
        name="sweep",
        uid="uid",
        resources=ResourcesConfig(**resources),
        tasks=tasks,
        count=6,
        parallel=2,
        processes=processes,
        logs=logs,
        code=code,
        worker=("python", "-m", "worker"),
    ).splitlines()


def test_two_nodes_of_four_gpus() -> None:
    lines = script(4, nodes=2, gpus=4, cpus=8, memory="256G", time="4:00:00", partition="gpu", account="me")
    wanted = ["nodes=2", "ntasks-per-node=4", "gres=gpu:4", "cpus-per-task=8", "mem=256G", "time=4:00:00"]
    for option in (*wanted, "partition=gpu", "account=me", "array=0-5%2", "signal=B:USR1@120", "open-mode=append"):
        assert f"#SBATCH --{option}" in lines
    assert "#SBATCH --requeue" in lines
    assert '    scontrol requeue "$task"' in lines
    assert 'task="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"' in lines, "one task, not its array"
    (srun,) = [line for line in lines if line.startswith("srun")]
    assert "--cpus-per-task=8" in srun, "srun does not take it over from sbatch"
    assert "--kill-on-bad-exit=1" in srun, "a rank that dies ends the others"
    assert any(line.startswith("export MASTER_PORT=$(") for line in lines), "two jobs on a node must not share a port"


def test_one_process_on_a_cpu_asks_for_no_more() -> None:
    lines = script(1)
    assert "#SBATCH --nodes=1" in lines and "#SBATCH --ntasks-per-node=1" in lines
    assert not any("gres" in line or "MASTER_PORT" in line or "exclusive" in line for line in lines)


@pytest.mark.parametrize(("nodes", "gpus", "processes"), [(1, 2, 2), (4, 8, 8)])
def test_processes_are_those_that_lightning_counts(nodes: int, gpus: int, processes: int) -> None:
    lines = script(processes, nodes=nodes, gpus=gpus)
    assert f"#SBATCH --ntasks-per-node={gpus}" in lines and f"#SBATCH --nodes={nodes}" in lines


def test_paths_may_have_blanks_in_them(tmp_path: Path) -> None:
    """The script is run by bash, with stand-ins for what Slurm brings along."""
    folder = tmp_path / "my outputs"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "code_version.json").write_text("{}")
    (folder / "tasks.txt").write_text(f"{folder}/none.yaml\n{folder}/a.yaml\t{folder}/b c.yaml\n")
    text = array_script(
        title="a sweep",
        name="sweep",
        uid="uid",
        resources=ResourcesConfig(),
        tasks=folder / "tasks.txt",
        count=2,
        parallel=0,
        processes=1,
        logs=folder / "logs",
        code=folder / "code",
        worker=(sys.executable, "-c", "import sys; print(sys.argv[1:])"),
    )
    assert f'#SBATCH --output="{folder}/logs/slurm-%A_%a.log"' in text
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin" / "srun"
    srun.write_text('#!/bin/bash\nshift\nexec "$@"\n')  # without its one option
    srun.chmod(0o755)
    path = f"{srun.parent}:{os.environ['PATH']}"
    job = {**os.environ, "PATH": path, "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=job, check=True)
    assert done.stdout.strip() == str([f"{folder}/a.yaml", f"{folder}/b c.yaml"])


SRUN = """#!/bin/bash
told=
trap 'told=1' USR1
if [[ $WARN ]]; then
    sleep 0.2
    kill -USR1 $PPID
    until [[ $told ]]; do sleep 0.05; done
    sleep 0.2
fi
exit $CODE
"""


@pytest.mark.parametrize(
    ("code", "warn", "kills", "requeued"),
    [
        (0, "1", 0, 0),
        (1, "1", 0, 0),
        (1, "", 0, 0),
        (75, "1", 0, 1),
        (75, "", 9, 1),
        (138, "1", 9, 1),
        (138, "", 0, 1),
        (137, "", 2, 1),
        (143, "", 3, 0),
    ],
)
def test_what_is_done_or_failed_is_not_requeued(
    tmp_path: Path, code: int, warn: str, kills: int, requeued: int
) -> None:
    """At the fifth restart, with the warning before the time limit and without, and after so many kills; above 128, a
    signal killed the step."""
    (tmp_path / "slurm-7_0.kills").write_text("a kill\n" * kills)
    (tmp_path / "code_version.json").write_text("{}")
    (tmp_path / "tasks.txt").write_text("a.yaml\n")
    for name, text in {
        "srun": SRUN,
        "squeue": "#!/bin/sh\necho RUNNING\n",
        "scontrol": f"#!/bin/sh\necho $@ >> {tmp_path}/requeued\n",
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    lines = script(1, code=tmp_path, tasks=tmp_path / "tasks.txt", logs=tmp_path)
    if not warn:  # the step may be through before it is waited for
        lines[lines.index("step=$!")] += "; sleep 0.3"
    job = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7", "SLURM_RESTART_COUNT": "5"}
    job |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": str(code), "WARN": warn}
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, env={**os.environ, **job})
    assert done.returncode == code, done.stderr
    asked = tmp_path / "requeued"
    assert (asked.read_text().splitlines() if asked.exists() else []) == ["requeue 7_0"] * requeued


def test_evaluations_have_resources_of_their_own() -> None:
    resources = ResourcesConfig(
        nodes=4, gpus=8, time="48:00:00", partition="gpu", evaluation={"gpus": "1", "time": "3"}
    )
    own = resources.of_evaluation()
    assert own == ResourcesConfig(nodes=1, gpus=1, time="3", partition="gpu")
    assert ResourcesConfig(nodes=4).of_evaluation() is None
    with pytest.raises(OmegaConfBaseException, match="gpsu"):
        ResourcesConfig(evaluation={"gpsu": 1}).of_evaluation()


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"time": "2"}, r"resources.time=2 is 120 s, and runs are told to save 120 s before .*signal_seconds"),
        ({"time": "1:00:00", "signal_seconds": 3600}, "resources.time=1:00:00 is 3600 s"),
        ({"time": "1:00:00", "evaluation": {"time": "1"}}, "resources.evaluation.time=1 is 60 s"),
        ({"time": "9", "evaluation": {"time": "9", "signal_seconds": 600}}, "resources.evaluation.time=9 is 540 s"),
        ({"memory": "lots"}, "resources.memory=lots must be a size as Slurm reads it"),
        ({"memory": "6.5G"}, "resources.memory=6.5G must be a size"),
        ({"report": {"time": 3600}}, "resources.report.time=3600 must be text"),
        ({"report": {"time": "1 hour"}}, "resources.report.time=1 hour must be a time as Slurm reads it"),
        ({"sbatch": {"time": "1:00"}}, "resources.sbatch: time is set by resources.time"),
        ({"sbatch": {"gres": "gpu:a100:8"}}, "set by resources.gpus and resources.gpu_type"),
        ({"sbatch": {"output": "x"}}, "set by the job script itself"),
        ({"sbatch": {"-J": "x"}}, "-J is no long option of sbatch"),
        ({"sbatch": {"mail_user": "x"}}, "mail_user is no long option"),
        ({"sbatch": {"exclude": "a\n#SBATCH --wrap=x"}}, "must be text of one line"),
        ({"sbatch": {"exclude": ["a", "b"]}}, "must be text of one line"),
        ({"launch": ["apptainer", ""]}, "resources.launch: every word"),
    ],
)
def test_what_no_job_could_be_given_is_refused(resources: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResourcesConfig(**resources)


def test_what_a_site_asks_for_reaches_every_job() -> None:
    options = {"reservation": "vision", "exclude": "node[01-03]", "mail-type": "END,FAIL", "exclusive": None}
    options |= {"gpu-bind": "closest", "comment-less": True}
    launch = ["apptainer", "exec", "--nv", "my image.sif"]
    site = {"sbatch": options, "launch": launch, "gpus": 2, "gpu_type": "a100"}
    lines = script(2, **site)
    wanted = ["reservation=vision", "exclude=node[01-03]", "mail-type=END,FAIL", "exclusive", "gpu-bind=closest"]
    for option in (*wanted, "comment-less", "gres=gpu:a100:2"):
        assert f"#SBATCH --{option}" in lines
    (srun,) = [line for line in lines if line.startswith("srun")]
    assert "apptainer exec --nv 'my image.sif' python -m worker" in srun
    (port,) = [line for line in lines if line.startswith("export MASTER_PORT")]
    assert "$(apptainer exec --nv 'my image.sif' " in port, "the host may have no python"
    text = report_script(
        title="a sweep",
        name="sweep",
        uid="uid",
        resources=ResourcesConfig(**site).of_report(),
        after=["1"],
        logs=Path("/out/logs"),
        code=Path("/out/code"),
        command=["python", "-m", "report"],
    )
    assert "#SBATCH --reservation=vision\n" in text and "gpu" not in text
    assert "exec apptainer exec --nv 'my image.sif' python -m report\n" in text
    evaluation = ResourcesConfig(**site, evaluation={"sbatch": {"reservation": "other"}}).of_evaluation()
    assert evaluation and evaluation.sbatch == {**options, "reservation": "other"} and evaluation.launch == launch


def test_of_the_environment_what_a_job_leaks_and_what_the_script_says_stays_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {"SBATCH_ACCOUNT": "me", "SBATCH_RESERVATION": "vision", "SLURM_CONF": "/etc/s"}
    leaked = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2", "SBATCH_MEM_BIND_TYPE": "none", "SLURM_CLUSTERS": "gpu"}
    outweighed = {"SBATCH_TIMELIMIT": "1", "SBATCH_PARTITION": "debug", "SBATCH_ARRAY_INX": "9", "SBATCH_QOS": "low"}
    outweighed |= {"SBATCH_NO_REQUEUE": "1", "SBATCH_OPEN_MODE": "truncate", "SBATCH_MEM_PER_CPU": "1G"}
    for name, value in {**own, **leaked, **outweighed}.items():
        monkeypatch.setenv(name, value)
    text = "\n".join(script(1, time="1:00:00", partition="gpu", qos="high", memory="2G"))
    assert {k: v for k, v in sbatch_environment(text).items() if k.startswith(("SLURM", "SBATCH", "SRUN"))} == own
    monkeypatch.setenv("SBATCH_ACCOUNT", "other")
    text = "\n".join(script(1, account="me"))
    assert "SBATCH_ACCOUNT" not in sbatch_environment(text), "what is typed counts more"


def test_a_path_with_what_slurm_replaces_stays_as_it_is() -> None:
    lines = script(1, logs=Path("/out/50%j off/logs"))
    assert '#SBATCH --output="/out/50%%j off/logs/slurm-%A_%a.log"' in lines
    assert "kills='/out/50%j off/logs'/slurm-$task.kills" in lines


def test_the_setup_may_read_variables_that_are_not_set(tmp_path: Path) -> None:
    """As `export LD_LIBRARY_PATH=/opt/lib:$LD_LIBRARY_PATH` does, and what environment modules run."""
    (tmp_path / "code_version.json").write_text("{}")
    (tmp_path / "tasks.txt").write_text("a.yaml\n")
    (tmp_path / "srun").write_text('#!/bin/bash\necho "$REACHED"\n')
    (tmp_path / "srun").chmod(0o755)
    lines = script(1, code=tmp_path, tasks=tmp_path / "tasks.txt", setup=["export REACHED=here:$NEVER_SET"])
    job = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, env={**os.environ, **job})
    assert (done.returncode, done.stdout) == (0, "here:\n"), done.stderr
