"""Which Slurm jobs were submitted for a sweep, as its folder has it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from experiments.errors import UserError
from experiments.files import atomic_write_json, read_json
from experiments.status import Part
from sweeps.slurm_commands import jobs_by_comment


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
    part: Part = "all"
    """What its tasks do of their cells."""
    cluster: str = ""
    """That took it; "" where unknown."""
    report: str = ""
    """The job that writes the report once this array and those before it have ended; "" if there is none."""

    @property
    def report_uid(self) -> str:
        """The comment of that job."""
        return f"{self.uid}-report"


def read_submissions(folder: Path) -> list[Submission]:
    """All submissions of a sweep's folder, oldest first."""
    try:
        return [Submission(**item) for item in read_json(_path(folder))]
    except FileNotFoundError:
        return []
    except (UserError, TypeError) as error:  # where jobs wait, removing it alone would have them submitted once more
        raise UserError(f"{_path(folder)} is damaged; cancel the sweep's jobs with scancel and remove it.") from error


def write_submissions(folder: Path, submissions: Iterable[Submission]) -> None:
    """Replace them."""
    atomic_write_json(_path(folder), [asdict(item) for item in submissions])


def recover(submissions: Iterable[Submission]) -> list[Submission]:
    """Find the ids of jobs whose submitter died before it could note them; forget what never got into the queue.

    Raises:
        UserError: Slurm does not answer.
    """
    submissions = list(submissions)
    if all(item.job for item in submissions):
        return submissions
    known = jobs_by_comment()
    return [replace(item, job=item.job or known[item.uid]) for item in submissions if item.job or item.uid in known]


def new_uid(name: str) -> str:
    """A mark for a job, unlike all others."""
    return f"ablate-{name}-{time.time_ns():x}"


def _path(folder: Path) -> Path:
    return folder / "jobs" / "submissions.json"
