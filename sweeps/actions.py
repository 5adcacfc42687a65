"""What `ablate run | retry | cancel` do. Each prints, and returns the exit code."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from experiments.errors import UserError, unknown
from experiments.provenance import other_code
from experiments.store import RunStore
from experiments.terminal import console, say
from sweeps.amendments import Amendments, amend, tell_amendments, write_amendments
from sweeps.devices import Slots
from sweeps.interventions import (
    cancel_plan,
    clear_failures,
    failed_cells,
    only,
    tell_unasked,
    unasked_groups,
    wait_for_endings,
    wait_for_ends,
)
from sweeps.local import WORKER, LocalLauncher, local_slots
from sweeps.planner import Plan, plan
from sweeps.progress import Progress
from sweeps.queue import read_queue
from sweeps.registry import register, submitted_definition
from sweeps.requirements import refusals
from sweeps.slurm import SlurmLauncher
from sweeps.slurm_commands import max_array_size
from sweeps.state import CellState, exit_code, forgiven
from sweeps.table import failure_lines, status_table, summary

LAUNCHERS = ("local", "slurm")


def run(
    name: str,
    scale: str = "",
    overrides: Iterable[str] = (),
    root: Path | str | None = None,
    launcher: str = "local",
    jobs: int = 0,
    worker: Iterable[str] = WORKER,
    dry_run: bool = False,
    with_report: bool = True,
) -> int:
    """Run what is still open: nothing that is done, nothing that someone else is at, no lasting failure.

    Args:
        launcher: local (waits until all is done) or slurm (submits and returns).
        jobs: workers, or tasks of an array, at once; 0 = what suits the machine, or no limit.
        worker: the command that works on configuration files.
        dry_run: only say what would be started.
        with_report: submit the report's job, too; with the local launcher there is none.
    """
    _check_launcher(launcher)
    return _launch(plan(name, scale, overrides, root), launcher, jobs, tuple(worker), dry_run, with_report)


def _launch(
    planned: Plan,
    launcher: str,
    jobs: int,
    worker: tuple[str, ...],
    dry_run: bool = False,
    with_report: bool = True,
) -> int:
    if dry_run:
        from sweeps.dry_run import tell_open

        tell_open(planned, launcher, jobs, say, with_report)
        return 0
    wait_for_endings(planned, say)
    queue = read_queue(planned.folder)
    states = planned.states(queue)
    slots = _check(planned, states, launcher, jobs)
    todo = any(state.is_open or state.state == "running" for state in states.values())
    # What is queued may lack what was to follow it, if Slurm refused that.
    todo = todo or launcher == "slurm" and any(state.is_queued for state in states.values())
    register(planned)
    others = _by_other_code(planned)
    for left, right in planned.duplicates:
        say(f"Note: {right.name} is the same as {left.name}; it is run once.")
    if not todo:
        say(f"Nothing to do for {planned.title}: {summary(states)}")
    elif launcher == "slurm":
        states = _submit(planned, jobs, worker, with_report)
    elif slots:
        if unasked := unasked_groups(planned, states, queue):
            say(f"{tell_unasked(unasked)} What is open is started here; a job that finds its run taken waits for it.")
        LocalLauncher(planned, slots, Progress(planned, console()), worker).launch()
        states = planned.states()
        screen = console()
        screen.print(status_table(planned, states, screen.width))
    for line in failure_lines(states):
        say(line)
    if others:
        say(
            f"Note: {others.total()} of {len(planned.cells)} cells were trained or measured before by other code than "
            f"this ({', '.join(f'{count} by {code}' for code, count in others.items())}), and keep their numbers. To "
            "run them with this code, name another folder of outputs with --root."
        )
    if any(state.state == "failed" for state in states.values()):
        words = [part for word in planned.request.words for part in ("--of", word)]
        command = shlex.join([planned.name_or_path, "--scale", planned.scale, *words])
        say(f"Fix the reason, then: ablate retry {command}")
    if launcher == "slurm":  # what is at work goes on by itself
        return exit_code(states)
    return 0 if all(state.state == "done" or state.is_queued for state in states.values()) else 1


def _check(planned: Plan, states: dict[str, CellState], launcher: str, jobs: int, afresh: bool = False) -> Slots | None:
    """The places that this machine has for what is open; None where nothing is, or where Slurm gives them.

    Args:
        afresh: failures and attempts are about to be forgotten: what failed counts as open.

    Raises:
        UserError: the launch would be refused. Nothing has been written then.
    """
    states = forgiven(states) if afresh else states
    if refused := next(refusals(planned, states), None):  # once and here, not in every worker
        raise refused
    if not any(state.is_open or state.state == "running" for state in states.values()):
        return None
    if launcher == "local":
        return local_slots(planned, jobs)
    SlurmLauncher(planned, jobs).batches(states, max_array_size(), afresh)
    return None


def _by_other_code(planned: Plan) -> Counter[str]:
    """How many of the cells were trained or measured before by which other code."""
    store, known, found = RunStore(planned.root), dict[Path, str](), Counter[str]()
    for cell in planned.cells:
        works = cell.works(store)
        for work in works:
            if work.folder not in known:
                with suppress(UserError):  # a damaged result is shown with its cell
                    known[work.folder] = other_code(work.result() or {})
        if codes := dict.fromkeys(filter(None, (known.get(work.folder) for work in works))):
            found[" and ".join(codes)] += 1
    return found


def _submit(planned: Plan, parallel: int, worker: tuple[str, ...], with_report: bool) -> dict[str, CellState]:
    """Submit what is open; returns the states then."""
    words = ("report", submitted_definition(planned), "--scale", planned.scale, "--root", str(planned.root.resolve()))
    report = (*words, *planned.request.words) if with_report else ()
    new = SlurmLauncher(planned, parallel, report, worker).launch()
    for item in new:
        say(f"Submitted job {item.job}: {len(item.groups)} task(s). Scripts: {planned.folder / 'jobs'}")
    states = planned.states()
    say(f"{summary(states)} Watch: ablate status {planned.title}")
    return states


def retry(
    name: str,
    scale: str = "",
    overrides: Iterable[str] = (),
    root: Path | str | None = None,
    where: Iterable[str] = (),
    change: Iterable[str] = (),
    launcher: str = "local",
    jobs: int = 0,
    worker: Iterable[str] = WORKER,
    with_report: bool = True,
) -> int:
    """Run failed cells again, and only those.

    Args:
        where: conditions that the cells must all meet: `cause=oom`, `AXIS=LABEL`, `seed=0`, `cell=NAME`.
        change: `key=value` overrides that these cells get from now on; kept in the sweep's amendments.json. But
            `resources.KEY=VALUE` is what their jobs ask for this time, over what `overrides` say.
        with_report: as for `run`.
    """
    _check_launcher(launcher)
    change, overrides = _sorted(change, overrides)
    planned = plan(name, scale, overrides, root)
    chosen = failed_cells(planned, where)
    if not chosen:
        say(f"No failed cell to retry: {summary(planned.states())}")
        return 0
    names = {cell.name for cell in chosen}
    if launcher == "slurm":
        wait_for_ends(planned, chosen, say)
    notes: list[str] = []
    amendments: Amendments | None = None
    if change:

        def again(amendments: Amendments) -> Plan:
            return plan(name, scale, overrides, root, amendments)

        planned, amendments = amend(planned, chosen, change, again)
        notes = tell_amendments(only(planned, names).cells, again({}).cells)
    planned = only(planned, names)
    # What is refused leaves amendments and failures as they are.
    _check(planned, planned.states(), launcher, jobs, afresh=True)
    if amendments is not None:
        write_amendments(planned.folder, amendments)
    clear_failures(planned, planned.cells)
    for note in notes:
        say(note)
    return _launch(planned, launcher, jobs, tuple(worker), with_report=with_report)


def _sorted(change: Iterable[str], overrides: Iterable[str]) -> tuple[Iterable[str], Iterable[str]]:
    """Changes of cells, and overrides with the resources among the changes: those are no cell's own."""
    change = tuple(change)
    resources = {word.partition("=")[0]: word for word in change if word.startswith("resources.")}
    kept = [word for word in overrides if word.partition("=")[0] not in resources]
    return [word for word in change if word not in resources.values()], [*kept, *resources.values()]


def cancel(
    name: str,
    scale: str = "",
    overrides: Iterable[str] = (),
    root: Path | str | None = None,
    confirm: Callable[[str], bool] = lambda question: False,
    dry_run: bool = False,
) -> int:
    """Stop a sweep's running cells in good order; runs that another begun sweep still needs go on.

    Args:
        confirm: puts the question to the person; `lambda question: True` for --yes.
        dry_run: only say which cells would be stopped.
    """
    return cancel_plan(plan(name, scale, overrides, root), confirm, say, dry_run)


def _check_launcher(launcher: str) -> None:
    if launcher not in LAUNCHERS:
        raise unknown("launcher", launcher, LAUNCHERS)
