"""What `ablate list | plan | status | logs` show. Each prints, and returns the exit code."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.errors import UserError
from experiments.files import default_root
from experiments.terminal import console, print_json, say
from sweeps.definition import load_sweep, sweep_names
from sweeps.interventions import tell_unasked, unasked_groups
from sweeps.logs import newest_log
from sweeps.planner import Plan, count_cells, plan
from sweeps.progress import LEISURE
from sweeps.queue import read_queue
from sweeps.registry import begun, definition_of
from sweeps.requirements import refusals
from sweeps.state import CellState, exit_code
from sweeps.table import WIDE, cell_json, device_time, duration, failure_lines, failures, status_table, summary


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
        print_json(rows)
        return 0
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
    overrides: Iterable[str] = (),
    root: Path | str | None = None,
    as_json: bool = False,
) -> int:
    """Dry run: every cell with its parameters and FLOPs, what is done, what is left out and why, what it will cost."""
    from sweeps.preview import preview, print_preview

    planned = plan(name, scale, overrides, root)
    refused = [str(error) for error in refusals(planned, planned.states())]
    if as_json:
        print_json({**preview(planned), "refused": refused})
    else:
        print_preview(planned, console())
        for reason in refused:
            say(f"`ablate run` would refuse it as it stands: {reason}")
    return 0


def status(
    name: str,
    scale: str = "",
    overrides: Iterable[str] = (),
    root: Path | str | None = None,
    as_json: bool = False,
    watch: bool = False,
) -> int:
    """How far every cell is, and the failures by cause. Exit code 1 if a cell failed."""
    planned = plan(name, scale, overrides, root)
    screen = console()
    if watch:
        _watch(planned, None if as_json else screen)
    queue = read_queue(planned.folder)
    states = planned.states(queue)
    unasked = unasked_groups(planned, states, queue)
    if as_json:
        cells = [cell_json(cell, states[cell.name]) for cell in planned.cells]
        hours = device_time(planned, states) / 3600
        whole = {"sweep": planned.sweep.name, "scale": planned.scale, "device_hours": round(hours, 4)}
        whole["queue_known"] = not unasked
        print_json({**whole, "cells": cells, "failures": failures(states)})
        return exit_code(states)
    screen.print(status_table(planned, states, screen.width))
    if seconds := device_time(planned, states):
        say(f"Device time so far, all attempts: {duration(seconds)}.")
    if unasked:
        say(tell_unasked(unasked))
    for line in failure_lines(states):
        say(line)
    return exit_code(states)


def _watch(planned: Plan, screen: Console | None) -> None:
    """Wait until nothing is at work or queued any more; a terminal shows all cells meanwhile, anything else how many
    there are of each state whenever that changes, no screen nothing."""
    if screen is None:
        for _ in _until_settled(planned):
            pass
    elif screen.is_terminal:
        with Live(console=screen, auto_refresh=False, transient=True) as live:
            for states in _until_settled(planned):
                live.update(status_table(planned, states, screen.width, max(5, screen.height - 8)), refresh=True)
    else:
        told = ""
        for states in _until_settled(planned):
            if (now := summary(states)) != told:
                screen.print(now, soft_wrap=True)
            told = now


def _until_settled(planned: Plan) -> Iterator[dict[str, CellState]]:
    """The states every two seconds, or more seldom where looking takes long; the last ones with nothing at work or
    queued. Slurm is asked twice a minute: how far runs are, they say themselves."""
    while True:
        began = time.monotonic()
        states = planned.states(read_queue(planned.folder, max_age=30.0))
        looked = time.monotonic() - began
        yield states
        if not any(state.state == "running" or state.is_queued for state in states.values()):
            return
        time.sleep(max(2.0, LEISURE * looked))


def logs(
    name: str,
    cell: str,
    scale: str = "",
    overrides: Iterable[str] = (),
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
