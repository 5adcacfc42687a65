"""Slurm's own commands: submit, end, ask."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import UserError
from experiments.slurm import forget_states

USUAL_ARRAY = 1000
"""Tasks that an array may have at most where the cluster does not say: Slurm's own default."""
LEAKING = ("SLURM_", "SRUN_", "SLURMD_", "SLURMSTEPD_", "SBATCH_CPU_BIND", "SBATCH_MEM_BIND")
"""Variables of a job that one submits from; they would silently change the jobs that are submitted."""
NAMED_BY_USERS = frozenset({"SLURM_CONF", "SLURM_CLUSTERS"})
"""They say which cluster is meant, and stay."""
VARIABLES = {"array": "ARRAY_INX", "mem": "MEM_PER_", "requeue": "NO_REQUEUE", "time": "TIMELIMIT"}
"""Options of sbatch whose variables are not called after them."""


def clean_environment(script: str = "") -> dict[str, str]:
    """This process' variables without those of a job it may run in.

    What a user has set for sbatch stays (SBATCH_ACCOUNT, SBATCH_RESERVATION), but for what the script says itself:
    sbatch would heed the variable.
    """
    options = re.findall(r"^#SBATCH --([a-z-]+)", script, re.M)
    said = tuple(f"SBATCH_{VARIABLES.get(name, name.upper().replace('-', '_'))}" for name in options)
    kept = {key: value for key, value in os.environ.items() if key in NAMED_BY_USERS or not key.startswith(LEAKING)}
    return {key: value for key, value in kept.items() if not key.startswith(said)}


def sbatch(script: Path) -> str:
    """Submit a script; returns the job's id. Raises UserError with Slurm's words if it refuses."""
    answer = _slurm("sbatch", "--parsable", str(script), script=script.read_text(encoding="utf-8"))
    forget_states()
    return answer.strip().partition(";")[0]


def scancel(jobs: Sequence[str]) -> None:
    """End jobs or array tasks. Raises UserError if Slurm refuses."""
    _slurm("scancel", *jobs)
    forget_states()


def would_refuse(script: str) -> str:
    """Why Slurm would not take a script that it is shown and not given; "" if it would."""
    # What a job waits for is another job, which is not there yet.
    lines = [line for line in script.splitlines() if not line.startswith("#SBATCH --dependency=")]
    try:
        _slurm("sbatch", "--test-only", text="\n".join(lines) + "\n", script=script)
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


def _slurm(*command: str, text: str = "", script: str = "") -> str:
    own = clean_environment(script)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=own, input=text)
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not here; --launcher slurm needs a login node of a Slurm cluster.") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"Slurm does not answer ({command[0]} waited 120 s); try again later.") from error
    if done.returncode:
        raise UserError(f"Slurm refused {command[0]}: {' '.join(done.stderr.split())}")
    return done.stdout
