"""Job scripts say what a run of several nodes, GPUs and processes needs. No Slurm is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf.errors import OmegaConfBaseException

from sweeps.config import ResourcesConfig
from sweeps.slurm_script import array_script


def script(
    processes: int, code: Path = Path("/out/code"), tasks: Path = Path("/out/tasks.txt"), **resources: object
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
        logs=Path("/out/logs"),
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
    ("code", "warn", "requeued"),
    [(0, "1", 0), (1, "1", 0), (75, "1", 1), (75, "", 1), (138, "1", 1), (138, "", 0), (1, "", 0)],
)
def test_what_is_done_or_failed_is_not_requeued(tmp_path: Path, code: int, warn: str, requeued: int) -> None:
    """At the fifth restart, with the warning before the time limit and without; above 128, a signal killed the step."""
    (tmp_path / "code_version.json").write_text("{}")
    (tmp_path / "tasks.txt").write_text("a.yaml\n")
    for name, text in {
        "srun": SRUN,
        "squeue": "#!/bin/sh\necho RUNNING\n",
        "scontrol": f"#!/bin/sh\necho $@ >> {tmp_path}/requeued\n",
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    lines = script(1, code=tmp_path, tasks=tmp_path / "tasks.txt")
    job = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7", "SLURM_RESTART_COUNT": "5"}
    job |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": str(code), "WARN": warn}
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, env={**os.environ, **job})
    assert done.returncode == code, done.stderr
    asked = tmp_path / "requeued"
    assert (asked.read_text().splitlines() if asked.exists() else []) == ["requeue 7_0"] * requeued


def test_evaluations_have_resources_of_their_own() -> None:
    resources = ResourcesConfig(
        nodes=4, gpus=8, time="48:00:00", partition="gpu", evaluation={"gpus": "1", "time": "1"}
    )
    own = resources.of_evaluation()
    assert own == ResourcesConfig(nodes=1, gpus=1, time="1", partition="gpu")
    assert ResourcesConfig(nodes=4).of_evaluation() is None
    with pytest.raises(OmegaConfBaseException, match="gpsu"):
        ResourcesConfig(evaluation={"gpsu": 1}).of_evaluation()


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
