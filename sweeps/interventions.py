"""`ablate retry` and `ablate cancel`: what a person does about a sweep that is under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from experiments.errors import UserError, unknown
from experiments.failures import CAUSES
from experiments.store import RunStore
from sweeps.cancellation import is_ours, request_cancel
from sweeps.planner import Cell, Plan
from sweeps.registry import needed_elsewhere
from sweeps.slurm_commands import scancel
from sweeps.state import CellState
from sweeps.submissions import active_jobs, places


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
    cells, deadline, said = tuple(cells), time.monotonic() + patience, False
    while ending := _jobs_at_work(plan, cells):
        name, job = next(iter(ending.items()))
        if time.monotonic() > deadline:
            raise UserError(f"{name} failed, but its job {job} is still at work; try again when that has ended.")
        if not said:
            say(f"Waiting for job {job} to end, in which {name} failed.")
            said = True
        time.sleep(0.5)


def _jobs_at_work(plan: Plan, cells: Iterable[Cell]) -> dict[str, str]:
    """Cells whose latest attempt was made by a job that has not ended -> that job."""
    states, found = plan.states(), places(plan.folder, max_age=0.0) or {}
    at_work = {cell.name: found[cell.group] for cell in cells if cell.group in found}
    return {
        name: place.job
        for name, place in at_work.items()
        if place.is_active and not place.is_waiting and place.job == states[name].status.job
    }


def ending_jobs(plan: Plan) -> dict[str, str]:
    """Cells that are not done -> the job that was at work on them and is ending, because it was cancelled or else."""
    found, states = places(plan.folder, max_age=0.0) or {}, plan.states()
    at_work = {cell.name: found[cell.group] for cell in plan.cells if cell.group in found}
    return {name: place.job for name, place in at_work.items() if place.is_ending and states[name].state != "done"}


def wait_for_endings(plan: Plan, say: Callable[[str], None], patience: float = 90.0) -> None:
    """After `ablate cancel` jobs need a while to save and end, in which their cells are not open: wait for these, so
    that what is launched next takes the cells up. What takes longer than `patience` seconds is named and left."""
    deadline, said = time.monotonic() + patience, False
    while ending := ending_jobs(plan):
        name, job = next(iter(ending.items()))
        if time.monotonic() > deadline:
            say(f"{name} and what else is in job {job} stay out: it has not ended. Run the same again when it has.")
            return
        if not said:
            say(f"Waiting for job {job} to end, which was at work on {name}.")
            said = True
        time.sleep(0.5)


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
    """Stop a sweep's running and queued trainings in good order, but none that another begun sweep still needs.

    Args:
        dry_run: only say which.

    Returns:
        The exit code: 1 if something runs that no launcher of the sweep has begun, so that none can stop it; it is
        named with its owner.
    """
    states = plan.states()
    active = {
        cell.group: cell for cell in plan.cells if states[cell.name].state == "running" or states[cell.name].is_queued
    }
    shared = {identity: sweep for identity, sweep in needed_elsewhere(plan).items() if identity in active}
    for identity, sweep in shared.items():
        say(f"{active[identity].name} goes on: {sweep} needs it.")
    foreign = {
        identity: status
        for identity, cell in active.items()
        if identity not in shared and (status := states[cell.name].status).state == "running"
        if not is_ours(plan.folder, identity, status)
    }
    for identity, status in foreign.items():
        owner, how = f"process {status.pid} on {status.host}", f"kill -INT {status.pid}"
        owner, how = (f"{owner}, job {status.job}", f"scancel {status.job}") if status.job else (owner, f"{how} there")
        say(f"{active[identity].name} goes on: no launcher of this sweep began it, but {owner}; stop it with {how}.")
    stop = [identity for identity in active if identity not in shared and identity not in foreign]
    code = 1 if foreign else 0
    if not stop:
        say(f"Nothing {'else ' if shared or foreign else ''}to stop in {plan.title}.")
        return code
    if dry_run:
        for identity in stop:
            cell = active[identity]
            say(f"would stop  {cell.name}: {states[cell.name].describe()}")
        return code
    if not confirm(f"Stop {len(stop)} running or queued training(s) of {plan.title}?"):
        say("Nothing was stopped; --yes stops without asking.")
        return 2
    request_cancel(plan.folder, keep=shared)
    if jobs := active_jobs(plan.folder, stop):
        scancel(jobs)
    say(f"Asked {len(stop)} training(s) to stop; ablate run {plan.title} goes on from there.")
    return code


def only(plan: Plan, names: Iterable[str]) -> Plan:
    """The same plan with some of its cells."""
    wanted = set(names)
    return replace(plan, cells=tuple(cell for cell in plan.cells if cell.name in wanted))
