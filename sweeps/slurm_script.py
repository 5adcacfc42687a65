"""The job scripts: plain files that a person can read, change and submit."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sweeps.config import ResourcesConfig
from sweeps.sbatch_options import option_lines

ARRAY = """\
#!/bin/bash
# {title}: {count} {what}, one per array task. Written by `ablate run`.
{directives}

{setup}
set -u  # only now: what a site has for its setup often reads variables that are not set
export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}
export ABLATE_CODE_VERSION="$(cat {code}/code_version.json)"
export PYTHONUNBUFFERED=1
export PYTHONSAFEPATH=1  # the snapshot, not whatever lies in the current folder
{threads}
# Line N of the list holds the configuration files of task N, with tabs between them.
mapfile -t tasks < {tasks}
IFS=$'\t' read -r -a configs <<< "${{tasks[$SLURM_ARRAY_TASK_ID]}}"
{port}
# The warning before the time limit comes to this shell, which passes it on: the run saves at its next step and ends.
warned=0
trap 'warned=1; kill -USR1 "$step" 2> /dev/null' USR1
trap : TERM
srun {srun} {command} "${{configs[@]}}" &
step=$!
while :; do  # waits first: a step that ends at once is gone, and its code is not
    wait "$step"
    code=$?
    kill -0 "$step" 2> /dev/null || break  # not the warning, but its end
done

# 75: the run was told to stop, and saved. 137, 138, 143: it was killed from outside; three times is enough for that,
# unless it was warned. They are counted in a file: Slurm counts every restart, time limits too. What failed for a
# reason of its own, or is done, is never repeated, and a job that is being cancelled ends.
task="${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
restarts=${{SLURM_RESTART_COUNT:-0}}
kills={logs}/slurm-$task.kills
again=0
if [[ $code = 75 || ($warned = 1 && $code -gt 128) ]]; then
    again=1
elif [[ $code =~ ^(137|138|143)$ ]]; then
    echo "exit code $code after $restarts restarts" >> "$kills"
    [[ $(wc -l < "$kills") -le 3 ]] && again=1
fi
[[ $restarts -lt {max_restarts} ]] || again=0
if [[ $again = 1 && "$(squeue --noheader --jobs="$task" --format=%T)" =~ ^(RUNNING|)$ ]]; then
    echo "--- requeued after $restarts restarts ---"
    # By array and task: the job id of an array's last task is the array's own, and would requeue all of it.
    scontrol requeue "$task"
fi
exit "$code"
"""
REPORT = """\
#!/bin/bash
# {title}: the report, after all trainings have ended, well or not. Written by `ablate run`.
{directives}

{setup}
export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}
export ABLATE_CODE_VERSION="$(cat {code}/code_version.json)"
export PYTHONSAFEPATH=1
exec {command}
"""


def array_script(
    *,
    title: str,
    name: str,
    uid: str,
    resources: ResourcesConfig,
    tasks: Path,
    count: int,
    parallel: int,
    processes: int,
    logs: Path,
    code: Path,
    worker: Sequence[str],
    what: str = "trainings and their evaluations",
    dependency: str = "",
    exclusive: bool = False,
) -> str:
    """The script of an array of `count` tasks.

    Args:
        uid: marks the job in the queue, so that it is found again if its id was lost.
        parallel: tasks at once; 0 = no limit.
        processes: per node.
        what: the tasks do, for the reader.
        dependency: what the tasks wait for, as sbatch takes it; where that cannot come about, they are cancelled.
        exclusive: nothing else may run on the nodes.
    """
    array = f"0-{count - 1}{f'%{parallel}' if parallel else ''}"
    directives = {
        **option_lines(resources.sbatch),
        "job-name": name,
        "comment": uid,
        "array": array,
        "output": f"{_escaped(logs)}/slurm-%A_%a.log",
        "open-mode": "append",
        "requeue": "",
        "signal": f"B:USR1@{resources.signal_seconds}",
        "nodes": str(resources.nodes),
        "ntasks-per-node": str(processes),
        **_shared(resources),
        **({"exclusive": ""} if exclusive else {}),
        **({"dependency": dependency, "kill-on-invalid-dep": "yes"} if dependency else {}),
    }
    # srun does not take over --cpus-per-task from sbatch since Slurm 22.05.
    srun = ["--kill-on-bad-exit=1", *([f"--cpus-per-task={resources.cpus}"] if resources.cpus else [])]
    several = processes * resources.nodes > 1
    python = "import socket; s = socket.socket(); s.bind(('', 0)); print(s.getsockname()[1])"
    free_port = shlex.join([*resources.launch, sys.executable, "-c", python])
    return ARRAY.format(
        title=title,
        count=count,
        what=what,
        directives=_directives(directives),
        setup="\n".join(resources.setup),
        code=shlex.quote(str(code)),
        threads=f"export OMP_NUM_THREADS={resources.cpus}\n" if resources.cpus else "",
        tasks=shlex.quote(str(tasks)),
        port=f"export MASTER_PORT=$({free_port})\n" if several else "",
        srun=" ".join(srun),
        command=shlex.join([*resources.launch, *worker]),
        logs=shlex.quote(str(logs)),
        max_restarts=resources.max_attempts - 1,
    )


def report_script(
    *,
    title: str,
    name: str,
    uid: str,
    resources: ResourcesConfig,
    after: Sequence[str],
    logs: Path,
    code: Path,
    command: Sequence[str],
) -> str:
    """The script of the job that lays out the table once the arrays `after` have ended."""
    directives = {
        **option_lines(resources.sbatch, gpus=bool(resources.gpus)),
        "job-name": f"{name}-report",
        "comment": uid,
        "dependency": f"afterany:{':'.join(after)}",
        "kill-on-invalid-dep": "yes",
        "output": f"{_escaped(logs)}/report.log",
        **_shared(resources),
    }
    return REPORT.format(
        title=title,
        directives=_directives(directives),
        setup="\n".join(resources.setup),
        code=shlex.quote(str(code)),
        command=shlex.join([*resources.launch, *command]),
    )


def _shared(resources: ResourcesConfig) -> dict[str, str]:
    gpu_type = f"{resources.gpu_type}:" if resources.gpu_type else ""
    values = {
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "time": resources.time,
        "constraint": resources.constraint,
        "mem": resources.memory,
        "cpus-per-task": str(resources.cpus) if resources.cpus else "",
        "gres": f"gpu:{gpu_type}{resources.gpus}" if resources.gpus else "",
    }
    return {key: value for key, value in values.items() if value}


def _escaped(path: Path) -> str:
    """A path for `--output`, where Slurm takes %j and the like for the job's id."""
    return str(path).replace("%", "%%")


def _directives(values: Mapping[str, str]) -> str:
    """What has blanks in it, such as a path, stands in quotes."""
    quoted = {key: f'"{value}"' if any(map(str.isspace, value)) else value for key, value in values.items()}
    return "\n".join(f"#SBATCH --{key}{f'={value}' if value else ''}" for key, value in quoted.items())
