"""What this process needs to know of Slurm: the job it runs in, and which jobs are alive."""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

ALIVE = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "CONFIGURING", "STAGE_OUT", "SIGNALING"})
"""States in which a job's processes may still exist."""
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
"""States in which Slurm is going to start the job, perhaps again."""
MOST_JOBS = 5_000
"""Ids in one word of a command, of which the system takes no more than 128 KiB."""
UNLISTED = "UNLISTED"
"""Not a state of Slurm's: the controller does not list the job. It is over, or hidden from this user."""
OPTIONS = ("SLURM_", "SBATCH_", "SRUN_", "SLURMD_", "SLURMSTEPD_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")
"""Variables that stand for options of Slurm's commands, or describe the job that one is in: they would silently filter
what is listed or cancelled, ask another cluster, or change the jobs that are submitted."""


class JobState(NamedTuple):
    """What the controller says of a job or array task."""

    state: str
    reason: str
    comment: str | None = None
    """None if it was not told."""


_cache: tuple[float, dict[str, JobState] | None] = (-1e9, None)
_ended: dict[str, str] = {}
"""Job -> how it ended, which never changes once the controller has forgotten the job."""
_not_ended: dict[str, float] = {}
"""Job -> when the accounting was last asked and did not know how it ended."""


def current_job() -> str:
    """The job this process runs in, written as squeue writes it ("187", "187_3" in an array), or ""."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return os.environ.get("SLURM_JOB_ID", "")


def current_restarts() -> int:
    """How often Slurm has already requeued the job this process runs in."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def environment() -> dict[str, str]:
    """The variables that all of Slurm's commands are called with: this process' own without those that would change
    what the commands do. SLURM_CONF, which names the cluster, stays."""
    return {key: value for key, value in os.environ.items() if key == "SLURM_CONF" or not key.startswith(OPTIONS)}


@lru_cache
def cluster_name() -> str:
    """The cluster whose controller this process asks; "" if it cannot be found out."""
    if current_job() and (name := os.environ.get("SLURM_CLUSTER_NAME")):
        return name
    lines = (_answer("scontrol", "show", "config") or "").splitlines()
    settings = (line.partition("=") for line in lines)
    return next((value.strip() for key, _, value in settings if key.strip() == "ClusterName"), "")


def job_states(max_age: float = 5.0) -> dict[str, JobState] | None:
    """Every job and array task that the controller knows, by id; one call for all of them.

    Args:
        max_age: an answer that is at most this many seconds old will do.

    Returns:
        None if Slurm is not here or does not answer: then nothing is known, which is not the same as "gone".
    """
    global _cache
    if time.monotonic() - _cache[0] > max_age:
        _cache = (time.monotonic(), _query())
    return _cache[1]


def state_of(job: str, silent: float) -> str | None:
    """State of a job whose process gave a sign of life `silent` seconds ago; None if Slurm is not here or silent."""
    states = job_states()
    if states is not None and job not in states and time.monotonic() - _cache[0] > silent:
        forget_states()  # asked before that sign of life, perhaps before the job began
        states = job_states()
    return None if states is None else states.get(job, JobState(UNLISTED, "")).state


def forget_states() -> None:
    """Ask anew next time: this process has just changed the queue."""
    global _cache
    _cache = (-1e9, None)


def ended_jobs(jobs: Iterable[str], max_age: float = 60.0) -> dict[str, str]:
    """How jobs ended that the controller has forgotten, from the accounting where there is one: id -> state.

    What an accounting does not know, or where there is none, is left out; one call for thousands, and none for those
    whose end is known already.

    Args:
        max_age: for so many seconds the accounting is not asked again about a job whose end it did not know.
    """
    wanted, now = set(jobs), time.monotonic()
    open_ones = sorted(job for job in wanted - _ended.keys() if now - _not_ended.get(job, -math.inf) > max_age)
    if open_ones:
        _not_ended.update(dict.fromkeys(open_ones, now))
        _ended.update(_account(open_ones))
    return {job: _ended[job] for job in wanted & _ended.keys()}


def _account(jobs: Sequence[str]) -> dict[str, str]:
    """Those of the jobs that have ended, by the accounting: id -> state."""
    columns = ("--allocations", "--noheader", "--parsable2", "--format=JobID,State")
    words = (f"--jobs={','.join(jobs[start : start + MOST_JOBS])}" for start in range(0, len(jobs), MOST_JOBS))
    answers = "".join(_answer("sacct", *columns, word) or "" for word in words)
    rows, asked = (line.strip().split("|") for line in answers.splitlines()), set(jobs)
    # "CANCELLED by 1000" is CANCELLED.
    states = {row[0]: row[1].split()[0] for row in rows if len(row) == 2 and row[0] in asked and row[1]}
    return {job: state for job, state in states.items() if state not in ALIVE | WAITING}


def _query() -> dict[str, JobState] | None:
    # Columns, not --json: the JSON changes shape between versions. --all: jobs in hidden partitions, too.
    answer = _answer("squeue", "--noheader", "--all", "--array", "--states=all", "--format=%i|%T|%r|%k")
    if answer is None:
        return None
    rows = (line.strip().split("|", 3) for line in answer.splitlines())
    return {row[0]: JobState(*row[1:]) for row in rows if len(row) >= 3}


def _answer(*command: str) -> str | None:
    """What a command prints; None if it is not here, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment())
    except (subprocess.SubprocessError, OSError):
        return None
    return done.stdout
