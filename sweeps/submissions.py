"""Which Slurm jobs were submitted for a sweep, and what has become of them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from experiments import slurm
from experiments.errors import UserError
from experiments.files import atomic_write_json, read_json

ENDINGS = {
    "TIMEOUT": ("time_limit", "the job reached its time limit"),
    "PREEMPTED": ("preempted", "the job was pre-empted"),
    "NODE_FAIL": ("killed", "the node failed"),
    "OUT_OF_MEMORY": ("oom", "the job needed more memory than resources.memory"),
}
"""State of an ended job -> cause and reason, for runs that could not say it themselves."""


@dataclass(frozen=True)
class Submission:
    """One array job."""

    uid: str
    """Its comment in the queue."""
    job: str
    """Its id; "" as long as it is not known to have been accepted."""
    groups: list[str]
    """Group of cells of each array task."""
    at: float


@dataclass(frozen=True)
class Place:
    """Where a group of cells stands in the queue."""

    job: str
    """Task of the array, e.g. "187_3"."""
    state: str
    """As Slurm calls it; "" if Slurm has forgotten the job."""
    reason: str

    @property
    def is_waiting(self) -> bool:
        """Whether Slurm is going to start it."""
        return self.state in slurm.WAITING

    @property
    def is_active(self) -> bool:
        """Whether Slurm is going to start it, or has."""
        return self.urgency > 0

    @property
    def is_ending(self) -> bool:
        """Whether it was cancelled or has come to its end, and its processes are going down."""
        return self.state == "COMPLETING"

    @property
    def urgency(self) -> int:
        """2: at work, 1: waiting, 0: ended."""
        return 2 if self.state in slurm.ALIVE else int(self.is_waiting)


def read_submissions(folder: Path) -> list[Submission]:
    """All submissions of a sweep's folder, oldest first."""
    try:
        return [Submission(**item) for item in read_json(_path(folder))]
    except FileNotFoundError:
        return []
    except TypeError as error:
        raise UserError(f"{_path(folder)} is damaged; cancel the sweep's jobs with scancel and remove it.") from error


def write_submissions(folder: Path, submissions: Iterable[Submission]) -> None:
    """Replace them."""
    atomic_write_json(_path(folder), [asdict(item) for item in submissions])


def places(folder: Path, max_age: float = 5.0) -> dict[str, Place] | None:
    """Where every group of cells stands that was submitted, by its id; None if Slurm does not answer.

    Of several tasks (an evaluation's waits for its training's) that is the first one at work or waiting, or else the
    latest.

    Args:
        max_age: as in `slurm.job_states`.
    """
    submissions = read_submissions(folder)
    if not submissions:
        return {}
    states = slurm.job_states(max_age)
    if states is None:
        return None
    found: dict[str, Place] = {}
    for item in submissions:
        for index, group in enumerate(item.groups if item.job else ()):
            job = f"{item.job}_{index}"
            place = Place(job, *states.get(job, ("", "")))
            known = found[group].urgency if group in found else -1
            if place.urgency > known or place.urgency == 0 == known:
                found[group] = place
    return found


def with_accounting(found: Mapping[str, Place], groups: Iterable[str]) -> dict[str, Place]:
    """The same, with how jobs of these groups ended that only the accounting still knows."""
    forgotten = {group: found[group] for group in groups if group in found and not found[group].state}
    ended = slurm.ended_jobs(place.job for place in forgotten.values())
    known = {g: replace(place, state=ended[place.job]) for g, place in forgotten.items() if place.job in ended}
    return {**found, **known}


def jobs_of(folder: Path, groups: Iterable[str]) -> list[str]:
    """All tasks that were ever submitted for these groups of cells; a search may have several at once."""
    wanted = set(groups)
    return [
        f"{item.job}_{index}"
        for item in read_submissions(folder)
        for index, group in enumerate(item.groups if item.job else ())
        if group in wanted
    ]


def active_jobs(folder: Path, groups: Iterable[str]) -> list[str]:
    """Those that wait or run."""
    states = slurm.job_states(0.0) or {}
    return [job for job in jobs_of(folder, groups) if Place(job, *states.get(job, ("", ""))).is_active]


def recover(submissions: Iterable[Submission]) -> list[Submission]:
    """Find the ids of jobs whose submitter died before it could note them; forget what never got into the queue.

    Raises:
        UserError: Slurm does not answer.
    """
    submissions = list(submissions)
    if all(item.job for item in submissions):
        return submissions
    known = _jobs_by_comment()
    return [replace(item, job=item.job or known[item.uid]) for item in submissions if item.job or item.uid in known]


def _jobs_by_comment() -> Mapping[str, str]:
    command = ["squeue", "--noheader", "--all", "--states=all", "--format=%F|%k"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError("Slurm does not answer (squeue failed); nothing was submitted. Try again later.") from error
    rows = (line.strip().split("|", 1) for line in answer.splitlines())
    return {row[1]: row[0] for row in rows if len(row) == 2}


def new_uid(name: str) -> str:
    """A mark for a job, unlike all others."""
    return f"ablate-{name}-{time.time_ns():x}"


def _path(folder: Path) -> Path:
    return folder / "jobs" / "submissions.json"
