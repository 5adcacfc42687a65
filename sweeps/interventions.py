"""`ablate retry` and `ablate cancel`: what a person does about a sweep that is under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from experiments.errors import UserError, unknown
from experiments.failures import CAUSES
from experiments.store import RunStore
from sweeps.cancellation import is_ours, request_cancel
from sweeps.planner import Cell, Plan
from sweeps.queue import Queue, read_queue
from sweeps.registry import needed_elsewhere
from sweeps.slurm_commands import scancel
from sweeps.state import CellState


def failed_cells(plan: Plan, where: Iterable[str]) -> tuple[Cell, ...]:
    """The failed cells that meet all conditions: `cause=oom`, `AXIS=LABEL`, `seed=0`, `cell=NAME`.

    Raises:
        UserError: a condition that is none of these.
    """
    states, conditions = plan.states(), [_condition(plan, word) for word in where]
    failed = [(cell, states[cell.name]) for cell in plan.cells if states[cell.name].state == "failed"]
    return tuple(cell for cell, state in failed if all(meets(cell, state) for meets in conditions))


def _condition(plan: Plan, word: str) -> Callable[[Cell, CellState], bool]:
    key, equals, value = word.partition("=")
    axes = [axis.name for axis in plan.sweep.axes]
    if not equals or key not in ("cause", "seed", "cell", *axes):
        raise unknown("condition", word, [f"{name}=..." for name in ("cause", "seed", "cell", *axes)])
    if key == "cause":
        if value not in CAUSES:
            raise unknown("cause", value, CAUSES)
        return lambda cell, state: state.status.cause == value
    if key == "seed":
        return lambda cell, state: str(cell.seed) == value
    if key == "cell":
        name = plan.find(value).name
        return lambda cell, state: cell.name == name
    if value not in plan.sweep.axis(key).labels:
        raise unknown(f"value of axis '{key}'", value, plan.sweep.axis(key).labels)
    return lambda cell, state: cell.labels.get(key) == value


def wait_for_ends(plan: Plan, cells: Iterable[Cell], say: Callable[[str], None], patience: float = 90.0) -> None:
    """A run says that it failed before its job is over, and while Slurm lists a job nothing new is submitted in its
    place: wait until the jobs in which these cells failed have ended.

    Raises:
        UserError: one has not after `patience` seconds.
    """
    cells = tuple(cells)
    if left := _wait(lambda: _jobs_at_work(plan, cells), "in which {name} failed", say, patience):
        name, job = left
        raise UserError(f"{name} failed, but its job {job} is still at work; try again when that has ended.")


def wait_for_endings(plan: Plan, say: Callable[[str], None], patience: float = 90.0) -> None:
    """After `ablate cancel` jobs need a while to save and end, in which their cells are not open: wait for these, so
    that what is launched next takes the cells up. What takes longer than `patience` seconds is named and left."""
    if left := _wait(lambda: ending_jobs(plan), "which was at work on {name}", say, patience):
        name, job = left
        say(f"{name} and what else is in job {job} stay out: it has not ended. Run the same again when it has.")


def _wait(
    jobs: Callable[[], dict[str, str]], which: str, say: Callable[[str], None], patience: float
) -> tuple[str, str] | None:
    """Wait until no job is left.

    Args:
        jobs: by cell, those that are left now.
        which: they are, for the reader.

    Returns:
        A cell and its job that was left after `patience` seconds; else None.
    """
    deadline, said = time.monotonic() + patience, False
    while left := jobs():
        name, job = next(iter(left.items()))
        if time.monotonic() > deadline:
            return name, job
        if not said:
            say(f"Waiting for job {job} to end, {which.format(name=name)}.")
            said = True
        time.sleep(2.0)  # each look asks Slurm for its whole queue
    return None


def _jobs_at_work(plan: Plan, cells: Iterable[Cell]) -> dict[str, str]:
    """Cells whose latest attempt was made by a job that has not ended -> that job."""
    queue = read_queue(plan.folder, max_age=0.0)
    states = plan.states(queue)
    at_work = {cell.name: {task.job for task in queue.of(cell.group) if task.is_at_work} for cell in cells}
    return {name: job for name, jobs in at_work.items() if (job := states[name].status.job) in jobs}


def ending_jobs(plan: Plan) -> dict[str, str]:
    """Cells that are not done -> the job that was at work on them and is ending, because it was cancelled or else."""
    queue = read_queue(plan.folder, max_age=0.0)
    states = plan.states(queue)
    found = {cell.name: queue.place(cell.group) for cell in plan.cells if states[cell.name].state != "done"}
    return {name: place.job for name, place in found.items() if place and place.is_ending}


def clear_failures(plan: Plan, cells: Iterable[Cell]) -> None:
    """Make failed cells open again."""
    store, states = RunStore(plan.root), plan.states()
    for cell in cells:
        works, status = cell.works(store), states[cell.name].status
        if status.cause == "oom":  # of which only Slurm may know
            with suppress(UserError, StopIteration):  # damaged, which is repaired below; or done meanwhile
                next(work for work in works if not work.is_done()).record_failure(status.cause, status.reason)
        for work in works:
            work.clear_failure()


def cancel_plan(plan: Plan, confirm: Callable[[str], bool], say: Callable[[str], None], dry_run: bool = False) -> int:
    """Stop a sweep's running and queued trainings in good order, but none that runs and another begun sweep needs.

    Args:
        dry_run: only say which.

    Returns:
        The exit code: 1 if something goes on that cannot be stopped, because no launcher of the sweep has begun it,
        which is named with its owner, or because Slurm does not answer.
    """
    queue = read_queue(plan.folder, max_age=0.0)
    states = plan.states(queue)
    unasked = unasked_groups(plan, states, queue)
    running = {cell.group: cell for cell in plan.cells if states[cell.name].state == "running"}
    queued = {cell.group: cell for cell in plan.cells if states[cell.name].is_queued and cell.group not in running}
    shared, foreign = _going_on(plan, running, states, queue, say)
    if unasked:
        say(f"{tell_unasked(unasked)} None of these was cancelled; try again later, or there.")
    kept = [*shared, *foreign]
    stop = {
        identity: cell
        for identity, cell in {**running, **queued}.items()
        if identity not in kept
        if identity in queued or identity not in unasked or not states[cell.name].status.job
    }
    # For what goes on no other task of this sweep is left, whose allocation would wait; nor is the report.
    owners = {states[running[identity].name].status.job for identity in kept}
    idle = [task for task in queue.active(kept) if task.job not in owners]
    idle += [task for task in queue.reports if task.is_active]
    code = 1 if foreign or unasked else 0
    if not stop and not idle:
        if not unasked:
            say(f"Nothing {'else ' if kept else ''}to stop in {plan.title}.")
        return code
    if dry_run:
        for cell in stop.values():
            say(f"would stop  {cell.name}: {states[cell.name].describe()}")
        for task in idle:
            say(f"would cancel job {task.job}, which waits")
        return code
    what = f"{len(stop)} running or queued training(s)" + (f" and {len(idle)} job(s) that wait" if idle else "")
    if not confirm(f"Stop {what} of {plan.title}?"):
        say("Nothing was stopped; --yes stops without asking.")
        return 2
    request_cancel(plan.folder, keep=shared)
    if jobs := [task.job for task in [*queue.active(stop), *idle]]:
        scancel(jobs)
    say(f"Asked {len(stop)} training(s) to stop; ablate run {plan.title} goes on from there.")
    return code


def _going_on(
    plan: Plan, running: Mapping[str, Cell], states: Mapping[str, CellState], queue: Queue, say: Callable[[str], None]
) -> tuple[list[str], list[str]]:
    """Those of the running groups that a cancellation leaves alone, and says so: what other sweeps need, and what no
    launcher of this one began.

    Args:
        running: group -> a cell of it.
    """
    shared = needed_elsewhere(plan, running)
    for identity, sweep in shared.items():
        say(f"{running[identity].name} goes on: {sweep} needs it.")
    foreign = []
    for identity, cell in running.items():
        status = states[cell.name].status
        if identity not in shared and not is_ours(plan.folder, identity, status, queue):
            foreign.append(identity)
            how = f"scancel {status.job}" if status.job else f"kill -INT {status.pid} there"
            say(f"{cell.name} goes on: no launcher of this sweep began it, but {status.owner}; stop it with {how}.")
    return list(shared), foreign


def unasked_groups(plan: Plan, states: Mapping[str, CellState], queue: Queue) -> set[str]:
    """Groups that are not done, for which jobs may be queued without anyone knowing."""
    return {cell.group for cell in plan.cells if states[cell.name].state != "done" and queue.is_unknown(cell.group)}


def tell_unasked(groups: Collection[str]) -> str:
    """A sentence about them."""
    return (
        f"Whether jobs for {len(groups)} training(s) are queued is not known: Slurm does not answer, or they are "
        "another cluster's."
    )


def only(plan: Plan, names: Iterable[str]) -> Plan:
    """The same plan with some of its cells."""
    wanted = set(names)
    return replace(plan, cells=tuple(cell for cell in plan.cells if cell.name in wanted))
