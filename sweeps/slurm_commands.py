"""Slurm's own commands: submit, end, ask."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import UserError
from experiments.slurm import environment, forget_states

USUAL_ARRAY = 1000
"""Tasks that an array may have at most where the cluster does not say: Slurm's own default."""
LEAKING = ("SBATCH_CPU_BIND", "SBATCH_MEM_BIND", "SBATCH_CLUSTERS")
"""Variables of a job that one submits from, and one that would send a job where nobody asks for it."""
VARIABLES = {"array": "ARRAY_INX", "mem": "MEM_PER_", "requeue": "NO_REQUEUE", "time": "TIMELIMIT"}
"""Options of sbatch whose variables are not called after them."""


def sbatch_environment(script: str) -> dict[str, str]:
    """The variables that sbatch is called with: those of all of Slurm's commands, and what a user has set for sbatch
    (SBATCH_ACCOUNT, SBATCH_RESERVATION), but for what the script says itself: sbatch would heed the variable."""
    options = re.findall(r"^#SBATCH --([a-z-]+)", script, re.M)
    said = tuple(f"SBATCH_{VARIABLES.get(name, name.upper().replace('-', '_'))}" for name in options)
    own = {key: value for key, value in os.environ.items() if key.startswith("SBATCH_")}
    return environment() | {key: value for key, value in own.items() if not key.startswith((*LEAKING, *said))}


def sbatch(script: Path) -> str:
    """Submit a script; returns the job's id, "" if none is printed. Raises UserError with Slurm's words if refused."""
    own = sbatch_environment(script.read_text(encoding="utf-8"))
    answer = _slurm("sbatch", "--parsable", str(script), own=own)
    forget_states()
    # A site may greet its users on the same stream; behind a semicolon stands the cluster.
    ids = re.findall(r"^(\d+)(?:;.*)?$", answer, re.MULTILINE)
    return ids[-1] if ids else ""


def scancel(jobs: Sequence[str]) -> None:
    """End jobs or array tasks. Raises UserError if Slurm refuses."""
    _slurm("scancel", *jobs)
    forget_states()


def jobs_by_comment() -> dict[str, str]:
    """The ids of all jobs that have a comment, by that. Raises UserError if Slurm does not answer."""
    answer = _slurm("squeue", "--noheader", "--all", "--states=all", "--format=%F|%k")
    rows = (line.strip().split("|", 1) for line in answer.splitlines())
    return {row[1]: row[0] for row in rows if len(row) == 2}


def would_refuse(script: str) -> str:
    """Why Slurm would not take a script that it is shown and not given; "" if it would."""
    # What a job waits for is another job, which is not there yet.
    lines = [line for line in script.splitlines() if not line.startswith("#SBATCH --dependency=")]
    try:
        _slurm("sbatch", "--test-only", text="\n".join(lines) + "\n", own=sbatch_environment(script))
    except UserError as error:
        return str(error).removeprefix("Slurm refused sbatch: ")
    return ""


def max_array_size() -> int:
    """How many tasks one array may have: the cluster caps the index."""
    for line in _slurm("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return max(1, int(value))
    return USUAL_ARRAY


def _slurm(*command: str, text: str = "", own: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=own or environment(), input=text
        )
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not here; --launcher slurm needs a login node of a Slurm cluster.") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"Slurm does not answer ({command[0]} waited 120 s); try again later.") from error
    if done.returncode:
        raise UserError(f"Slurm refused {command[0]}: {' '.join(done.stderr.split())}")
    return done.stdout
