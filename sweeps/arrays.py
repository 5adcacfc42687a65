"""Which arrays of tasks a Slurm cluster is given for the trainings, evaluations, searches and timings of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from experiments.errors import UserError
from experiments.status import Part
from experiments.store import RunStore
from sweeps.config import ResourcesConfig
from sweeps.planner import Group, Plan


@dataclass(frozen=True)
class Batch:
    """An array of tasks to submit."""

    groups: Sequence[Group]
    """Of each task; several work on one where values are searched."""
    part: Part
    resources: ResourcesConfig
    what: str
    """The tasks do."""
    parallel: int
    """Tasks at once; 0 = no limit."""
    waits: bool = False
    """Whether each task waits for the task of the same number in the last array of trainings."""
    trainings: str = ""
    """That array, where it was submitted before."""
    elsewhere: tuple[str, ...] = ()
    """Tasks of other sweeps that are to work on the same trainings, all of which end first."""

    @property
    def text(self) -> str:
        """In words."""
        r, waits = self.resources, ", each after its training" if self.waits else ""
        if self.elsewhere:
            waits += f", when {len(self.elsewhere)} task(s) of other sweeps that do the same have ended"
        each = f"{r.nodes} node(s), {f'{r.gpus} GPU(s) per node' if r.gpus else 'CPUs'}"
        return f"would submit an array of {len(self.groups)} task(s): {self.what}{waits}; {each}"


class Arrays:
    """Shares groups of a plan out among arrays.

    Args:
        plan: whose groups they are.
        largest: tasks that an array may have at most.
        parallel: tasks of an array at once; 0 = no limit.
    """

    def __init__(self, plan: Plan, largest: int, parallel: int):
        self.plan, self.largest, self.parallel = plan, largest, parallel
        self.resources = plan.request.resources

    def of(self, groups: Sequence[Group]) -> Iterator[Batch]:
        """The arrays in the order in which they are submitted.

        Raises:
            UserError: resources that a search cannot use.
        """
        if self.plan.is_timed:
            yield from self._arrays(groups, "all", self.resources, "timings")
            return
        searches = [group for group in groups if group.cells[0].is_searched]
        others = [group for group in groups if not group.cells[0].is_searched]
        training = [group for group in searches if not group.cells[0].run_id]
        if training and (processes := self.resources.nodes * max(self.resources.gpus, 1)) > 1:
            raise UserError(
                f"A search over a key of the training runs one process a trial, not {processes}: set resources.nodes=1 "
                f"and resources.gpus={min(self.resources.gpus, 1)}."
            )
        if self.resources.of_evaluation() is None:
            yield from self._arrays(others, "all", self.resources, "trainings and their evaluations")
        else:
            yield from self._after_trainings(others)
        # Hands that search would hold their devices idle while one of them trains; where every trial is a training,
        # there is none that they share.
        yield from self._after_trainings([group for group in searches if group not in training])
        yield from self._arrays(training, "all", self.resources, "searches")

    def _after_trainings(self, groups: Sequence[Group]) -> Iterator[Batch]:
        """Arrays of trainings, each followed by what waits for them, task by task; then of what need not wait."""
        store = RunStore(self.plan.root)
        done = {group.id for group in groups if store.run(group.cells[0].run_id).is_done()}
        trained = [group for group in groups if group.id in done]
        # Those that most hands work on first: in every array a task of the same number works on the same group.
        untrained = sorted((group for group in groups if group.id not in done), key=_hands, reverse=True)
        for some in _chunks(untrained, self.largest):
            yield Batch(some, "train", self.resources, "trainings", self.parallel)
            yield from self.followers(some)
        if trained:
            yield from self._arrays(trained, "evaluate", *self._of_trained(trained[0]))

    def followers(self, groups: Sequence[Group], trainings: str = "") -> Iterator[Batch]:
        """What waits for an array of trainings, task by task."""
        resources, what = self._of_trained(groups[0])
        hands = min(_hands(groups[0]), self.parallel or _hands(groups[0]))
        for number in range(hands):
            these = [group for group in groups if _hands(group) > number]
            parallel = -(-self.parallel // hands)
            yield Batch(these, "evaluate", resources, what, parallel, waits=True, trainings=trainings)

    def _of_trained(self, group: Group) -> tuple[ResourcesConfig, str]:
        """With what a group is worked on once it is trained, and what is done."""
        resources = self.resources.of_evaluation() or self.resources
        if not group.cells[0].is_searched:
            return resources, "evaluations"
        # Each hand is one process: ranks would not wait for each other's trials.
        return replace(resources, nodes=1, gpus=min(resources.gpus, 1)), "searches"

    def _arrays(self, groups: Sequence[Group], part: Part, resources: ResourcesConfig, what: str) -> Iterator[Batch]:
        """Of as many tasks a group as there are hands to work on it."""
        tasks = [group for group in groups for _ in range(_hands(group))]
        for some in _chunks(tasks, self.largest):
            yield Batch(some, part, resources, what, self.parallel)


def _chunks(groups: Sequence[Group], size: int) -> Iterator[Sequence[Group]]:
    for begin in range(0, len(groups), size):
        yield groups[begin : begin + size]


def _hands(group: Group) -> int:
    """How many array tasks work on a group at once: several only while values are searched."""
    cell = group.cells[0]
    return cell.config.search.jobs if cell.is_searched else 1
