"""What Slurm's queue says about a sweep: which tasks were submitted for its cells, and what has become of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from experiments import slurm
from experiments.errors import UserError
from sweeps.submissions import Submission, read_submissions

UNKNOWN = "UNKNOWN"
"""Not a state of Slurm's: nobody could be asked about the job."""
ENDINGS = {
    "TIMEOUT": ("time_limit", "the job reached its time limit"),
    "PREEMPTED": ("preempted", "the job was pre-empted"),
    "NODE_FAIL": ("killed", "the node failed"),
    "OUT_OF_MEMORY": ("oom", "the job needed more memory than resources.memory"),
}
"""State of an ended job -> cause and reason, for runs that could not say it themselves."""


@dataclass(frozen=True)
class Task:
    """A task of an array that was submitted for a group of cells, or the job that writes the report."""

    job: str
    """As squeue writes it, e.g. "187_3"."""
    part: str
    """What it does of its cells: all, train, evaluate."""
    state: str
    """As Slurm calls it; "" if Slurm has forgotten the job."""
    reason: str

    @property
    def is_waiting(self) -> bool:
        """Whether Slurm is going to start it."""
        return self.state in slurm.WAITING

    @property
    def is_at_work(self) -> bool:
        """Whether it was started, and its processes may still exist."""
        return self.state in slurm.ALIVE

    @property
    def is_active(self) -> bool:
        """Whether Slurm is going to start it, or has."""
        return self.is_waiting or self.is_at_work

    @property
    def is_ending(self) -> bool:
        """Whether it was cancelled or has come to its end, and its processes are going down."""
        return self.state == "COMPLETING"


@dataclass(frozen=True)
class Queue:
    """All tasks that were submitted for a sweep, as they were when it was read."""

    tasks: Mapping[str, tuple[Task, ...]]
    """By group of cells, oldest first: an evaluation's task waits for its training's, a search has several at once."""
    reports: tuple[Task, ...] = ()

    def of(self, group: str) -> tuple[Task, ...]:
        """All tasks that were ever submitted for a group of cells, oldest first."""
        return self.tasks.get(group, ())

    def active(self, groups: Iterable[str]) -> list[Task]:
        """The tasks of these groups that wait or are at work."""
        return [task for group in groups for task in self.of(group) if task.is_active]

    def place(self, group: str) -> Task | None:
        """The task by which a group stands in the queue: the first at work, else the first that waits."""
        active = self.active([group])
        return next((task for task in active if task.is_at_work), active[0] if active else None)

    def is_unknown(self, group: str) -> bool:
        """Whether the latest task of the group may wait or be at work without anyone knowing."""
        return any(task.state == UNKNOWN for task in self.of(group)[-1:])

    def attempt(self, group: str, job: str, part: str) -> Task | None:
        """The task that made the latest attempt at a part (train or evaluate) of a group, if one did.

        Args:
            job: that the attempt says it was made in; "" if none was begun, which is the latest task's doing.
        """
        tasks = [task for task in self.of(group) if task.job == job or not job and task.part in ("all", part)]
        return tasks[-1] if tasks else None


def read_queue(folder: Path, max_age: float = 5.0) -> Queue:
    """The tasks that were submitted for the sweep in this folder. Those of another cluster, or all if Slurm does not
    answer, are `UNKNOWN`; one whose number is another job's by now is left out.

    Args:
        max_age: as in `slurm.job_states`.

    Raises:
        UserError: the list of submissions is damaged.
    """
    submissions = [item for item in read_submissions(folder) if item.job]
    jobs = slurm.job_states(max_age) if submissions else {}
    tasks: dict[str, list[Task]] = {}
    reports: list[Task] = []
    for item in submissions:
        known = jobs if jobs is None or _is_here(item) else None
        for index, group in enumerate(item.groups):
            tasks.setdefault(group, []).extend(_tasks(f"{item.job}_{index}", item.uid, item.part, known))
        if item.report:
            reports.extend(_tasks(item.report, item.uid, "report", known))
    return Queue({group: tuple(found) for group, found in tasks.items()}, tuple(reports))


def queued_elsewhere(folder: Path, groups: Iterable[str]) -> dict[str, list[str]]:
    """Groups for which tasks of other sweeps beside this folder wait or are at work -> these tasks."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.parent.glob("*/jobs/submissions.json")):
        if path.parent.parent.name != folder.name:
            with suppress(UserError):  # shown where that sweep itself is asked for
                queue = read_queue(path.parent.parent)
                for group in groups:
                    found.setdefault(group, []).extend(task.job for task in queue.active([group]))
    return {group: jobs for group, jobs in found.items() if jobs}


def with_accounting(tasks: Mapping[str, Task]) -> dict[str, Task]:
    """The same, with how those ended that only the accounting still knows; one call for all."""
    ended = slurm.ended_jobs(task.job for task in tasks.values() if not task.state)
    return {key: replace(task, state=ended.get(task.job, task.state)) for key, task in tasks.items()}


def _is_here(item: Submission) -> bool:
    """Whether its jobs are of the cluster that is asked."""
    return not item.cluster or slurm.cluster_name() in ("", item.cluster)


def _tasks(job: str, uid: str, part: str, known: Mapping[str, slurm.JobState] | None) -> list[Task]:
    """The task with this id and mark; [] if the id is another job's by now."""
    if known is None:
        return [Task(job, part, UNKNOWN, "")]
    found = known.get(job, slurm.JobState("", ""))
    is_other = found.comment is not None and uid not in found.comment
    return [] if is_other else [Task(job, part, found.state, found.reason)]
