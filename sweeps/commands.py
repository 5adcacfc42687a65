"""What `ablate list | plan | run | status | retry | logs | cancel` do. Each prints, and returns the exit code."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.errors import UserError, unknown
from experiments.files import default_root
from experiments.provenance import other_code
from experiments.resolve import check_files
from experiments.store import RunStore
from experiments.terminal import console
from sweeps.amendments import Amendments, amend, tell_amendments, write_amendments
from sweeps.definition import load_sweep, sweep_names
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
from sweeps.logs import newest_log
from sweeps.planner import Plan, count_cells, plan
from sweeps.progress import Progress
from sweeps.queue import read_queue
from sweeps.registry import begun, definition_of, register, submitted_definition
from sweeps.slurm import SlurmLauncher
from sweeps.slurm_commands import max_array_size
from sweeps.state import CellState
from sweeps.table import WIDE, cell_json, device_time, duration, failure_lines, failures, status_table, summary

LAUNCHERS = ("local", "slurm")
Words = Iterable[str]


def list_sweeps(root: Path | str | None = None, as_json: bool = False) -> int:
    """Named sweeps: what each reproduces, its cells, and how far those are that were begun."""
    started: dict[str, list[str]] = {}
    rows: list[dict[str, Any]] = []
    folder = Path(root or default_root())
    lost: list[str] = []
    for record in begun(folder, lost):
        if definition_of(record) in sweep_names():
            try:
                found = summary(plan(record["sweep"], record["scale"], record["words"], folder).states())
            except UserError as error:  # one that cannot be planned any more must not hide the others
                found = f"begun, but not as it is defined now: {error}"
            started.setdefault(record["sweep"], []).append(f"{record['scale']}: {found}")
    for name in sweep_names():
        sweep = load_sweep(name)
        paper = sweep.config.paper
        rows.append(
            {
                "name": name,
                "title": sweep.config.title,
                "paper": " ".join(filter(None, (paper.system, paper.table))),
                "reproduces": sweep.config.reproduces,
                "axes": {axis.name: list(axis.labels) for axis in sweep.axes},
                "cells": {scale: count_cells(sweep, scale) for scale in sweep.config.scales},
                "begun": started.get(name, []),
            }
        )
    if as_json:
        return _print_json(rows)
    table = Table(box=None, pad_edge=False)
    wide = console().width >= WIDE
    for column in ("sweep", "paper", *(["reproduces"] if wide else []), "cells", "state"):
        fixed = column in ("sweep", "cells") or (wide and column == "paper")
        table.add_column(column, overflow="fold", no_wrap=fixed, min_width=9 if column == "state" else None)
    for row in rows:
        cells = "\n".join(f"{scale} {count}" for scale, count in row["cells"].items())
        question = [row["reproduces"]] if wide else []
        table.add_row(row["name"], row["paper"], *question, cells, "\n".join(row["begun"]) or "not begun")
    console().print(table)
    for line in lost:
        print(line, file=sys.stderr)
    return 0


def show_plan(
    name: str,
    scale: str = "",
    overrides: Words = (),
    root: Path | str | None = None,
    as_json: bool = False,
) -> int:
    """Dry run: every cell with its parameters and FLOPs, what is done, what is left out and why, what it will cost."""
    from sweeps.preview import preview_json, print_preview

    planned = plan(name, scale, overrides, root)
    if as_json:
        print(preview_json(planned))
    else:
        print_preview(planned, console())
    return 0


def status(
    name: str,
    scale: str = "",
    overrides: Words = (),
    root: Path | str | None = None,
    as_json: bool = False,
    watch: bool = False,
) -> int:
    """How far every cell is, and the failures by cause. Exit code 1 if a cell failed."""
    planned = plan(name, scale, overrides, root)
    queue = read_queue(planned.folder)
    states = planned.states(queue)
    unasked = unasked_groups(planned, states, queue)
    screen = console()
    if as_json:
        cells = [cell_json(cell, states[cell.name]) for cell in planned.cells]
        hours = device_time(planned, states) / 3600
        whole = {"sweep": planned.sweep.name, "scale": planned.scale, "device_hours": round(hours, 4)}
        whole["queue_known"] = not unasked
        _print_json({**whole, "cells": cells, "failures": failures(states)})
        return _exit_code(states)
    if watch and screen.is_terminal:
        states = _watch(planned, screen)
    screen.print(status_table(planned, states, screen.width))
    if seconds := device_time(planned, states):
        _say(f"Device time so far, all attempts: {duration(seconds)}.")
    if unasked:
        _say(tell_unasked(unasked))
    for line in failure_lines(states):
        _say(line)
    return _exit_code(states)


def _watch(planned: Plan, screen: Console) -> dict[str, CellState]:
    """Redraw until nothing is at work or queued any more."""
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        while True:
            states = planned.states()
            live.update(status_table(planned, states, screen.width, max(5, screen.height - 8)), refresh=True)
            if not any(state.state == "running" or state.is_queued for state in states.values()):
                return states
            time.sleep(2.0)


def run(
    name: str,
    scale: str = "",
    overrides: Words = (),
    root: Path | str | None = None,
    launcher: str = "local",
    jobs: int = 0,
    worker: Iterable[str] = WORKER,
    dry_run: bool = False,
) -> int:
    """Run what is still open: nothing that is done, nothing that someone else is at, no lasting failure.

    Args:
        launcher: local (waits until all is done) or slurm (submits and returns).
        jobs: workers, or tasks of an array, at once; 0 = what suits the machine, or no limit.
        worker: the command that works on configuration files.
        dry_run: only say what would be started.
    """
    _check_launcher(launcher)
    return _launch(plan(name, scale, overrides, root), launcher, jobs, tuple(worker), dry_run)


def _launch(planned: Plan, launcher: str, jobs: int, worker: tuple[str, ...], dry_run: bool = False) -> int:
    if dry_run:
        from sweeps.dry_run import tell_open

        tell_open(planned, launcher, jobs, _say)
        return 0
    wait_for_endings(planned, _say)
    queue = read_queue(planned.folder)
    states = planned.states(queue)
    slots = _check(planned, states, launcher, jobs)
    todo = any(state.is_open or state.state == "running" for state in states.values())
    # What is queued may lack what was to follow it, if Slurm refused that.
    todo = todo or launcher == "slurm" and any(state.is_queued for state in states.values())
    register(planned)
    others = _by_other_code(planned)
    for left, right in planned.duplicates:
        _say(f"Note: {right.name} is the same as {left.name}; it is run once.")
    if not todo:
        _say(f"Nothing to do for {planned.title}: {summary(states)}")
    elif launcher == "slurm":
        states = _submit(planned, jobs, worker)
    elif slots:
        if unasked := unasked_groups(planned, states, queue):
            _say(f"{tell_unasked(unasked)} What is open is started here; a job that finds its run taken waits for it.")
        LocalLauncher(planned, slots, Progress(planned, console()), worker).launch()
        states = planned.states()
        screen = console()
        screen.print(status_table(planned, states, screen.width))
    for line in failure_lines(states):
        _say(line)
    if others:
        _say(
            f"Note: {others.total()} of {len(planned.cells)} cells were trained or measured before by other code than "
            f"this ({', '.join(f'{count} by {code}' for code, count in others.items())}), and keep their numbers. To "
            "run them with this code, name another folder of outputs with --root."
        )
    if any(state.state == "failed" for state in states.values()):
        words = [part for word in planned.request.words for part in ("--of", word)]
        command = shlex.join([planned.name_or_path, "--scale", planned.scale, *words])
        _say(f"Fix the reason, then: ablate retry {command}")
    if launcher == "slurm":  # what is at work goes on by itself
        return _exit_code(states)
    return 0 if all(state.state == "done" or state.is_queued for state in states.values()) else 1


def _check(planned: Plan, states: dict[str, CellState], launcher: str, jobs: int) -> Slots | None:
    """The places that this machine has for what is open; None where nothing is, or where Slurm gives them.

    Raises:
        UserError: the launch would be refused. Nothing has been written then.
    """
    for group in planned.groups():
        for cell in group.cells[:1] if planned.is_timed else group.cells:
            if states[cell.name].is_open:
                check_files(cell.config, evaluated=True)  # once and here, not in every worker
    if not any(state.is_open or state.state == "running" for state in states.values()):
        return None
    if launcher == "local":
        return local_slots(planned, jobs)
    SlurmLauncher(planned, jobs).batches(max_array_size())
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


def _submit(planned: Plan, parallel: int, worker: tuple[str, ...]) -> dict[str, CellState]:
    """Submit what is open; returns the states then."""
    words = ("report", submitted_definition(planned), "--scale", planned.scale, "--root", str(planned.root.resolve()))
    new = SlurmLauncher(planned, parallel, (*words, *planned.request.words), worker).launch()
    for item in new:
        _say(f"Submitted job {item.job}: {len(item.groups)} task(s). Scripts: {planned.folder / 'jobs'}")
    states = planned.states()
    _say(f"{summary(states)} Watch: ablate status {planned.title}")
    return states


def retry(
    name: str,
    scale: str = "",
    overrides: Words = (),
    root: Path | str | None = None,
    where: Words = (),
    change: Words = (),
    launcher: str = "local",
    jobs: int = 0,
    worker: Iterable[str] = WORKER,
) -> int:
    """Run failed cells again, and only those.

    Args:
        where: conditions that the cells must all meet: `cause=oom`, `AXIS=LABEL`, `seed=0`, `cell=NAME`.
        change: `key=value` overrides that these cells get from now on; kept in the sweep's amendments.json. But
            `resources.KEY=VALUE` is what their jobs ask for this time, over what `overrides` say.
    """
    _check_launcher(launcher)
    change, overrides = _sorted(change, overrides)
    planned = plan(name, scale, overrides, root)
    chosen = failed_cells(planned, where)
    if not chosen:
        _say(f"No failed cell to retry: {summary(planned.states())}")
        return 0
    names = {cell.name for cell in chosen}
    if launcher == "slurm":
        wait_for_ends(planned, chosen, _say)
    notes: list[str] = []
    amendments: Amendments | None = None
    if change:

        def again(amendments: Amendments) -> Plan:
            return plan(name, scale, overrides, root, amendments)

        planned, amendments = amend(planned, chosen, change, again)
        notes = tell_amendments(only(planned, names).cells, again({}).cells)
    planned = replace(only(planned, names), forgiven=frozenset(names))
    _check(planned, planned.states(), launcher, jobs)  # what is refused leaves amendments and failures as they are
    planned = replace(planned, forgiven=frozenset())
    if amendments is not None:
        write_amendments(planned.folder, amendments)
    clear_failures(planned, planned.cells)
    for note in notes:
        _say(note)
    return _launch(planned, launcher, jobs, tuple(worker))


def _sorted(change: Words, overrides: Words) -> tuple[Words, Words]:
    """Changes of cells, and overrides with the resources among the changes: those are no cell's own."""
    change = tuple(change)
    resources = {word.partition("=")[0]: word for word in change if word.startswith("resources.")}
    kept = [word for word in overrides if word.partition("=")[0] not in resources]
    return [word for word in change if word not in resources.values()], [*kept, *resources.values()]


def logs(
    name: str,
    cell: str,
    scale: str = "",
    overrides: Words = (),
    root: Path | str | None = None,
    lines: int = 0,
    follow: bool = False,
) -> int:
    """Print what a cell's worker printed.

    Args:
        cell: its name, or a part of it that fits no other.
        lines: only so many at the end; 0 = all.
        follow: go on as long as it runs.
    """
    planned = plan(name, scale, overrides, root)
    found = planned.find(cell)
    path = newest_log(planned, found)
    if path is None:
        state = planned.states()[found.name]
        raise UserError(f"{found.name} has no log in {planned.folder / 'logs'} ({state.describe()}).")
    screen = console()
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.readlines()
        screen.out("".join(text[-lines:] if lines else text), end="")
        while follow and planned.states()[found.name].state == "running":
            time.sleep(1.0)
            screen.out(file.read(), end="")
        screen.out(file.read(), end="")  # what it printed between the last look and its end
    return 0


def cancel(
    name: str,
    scale: str = "",
    overrides: Words = (),
    root: Path | str | None = None,
    confirm: Callable[[str], bool] = lambda question: False,
    dry_run: bool = False,
) -> int:
    """Stop a sweep's running cells in good order; runs that another begun sweep still needs go on.

    Args:
        confirm: puts the question to the person; `lambda question: True` for --yes.
        dry_run: only say which cells would be stopped.
    """
    return cancel_plan(plan(name, scale, overrides, root), confirm, _say, dry_run)


def _exit_code(states: dict[str, CellState]) -> int:
    return 1 if any(state.state == "failed" for state in states.values()) else 0


def _check_launcher(launcher: str) -> None:
    if launcher not in LAUNCHERS:
        raise unknown("launcher", launcher, LAUNCHERS)


def _say(text: str) -> None:
    console().print(text, markup=False, soft_wrap=True)


def _print_json(value: Any) -> int:
    print(json.dumps(value, indent=2, ensure_ascii=False))
    return 0
