"""What the local launcher shows: a live table on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal

from rich.console import Console
from rich.live import Live

from sweeps.planner import Group, Plan
from sweeps.state import CellState
from sweeps.table import duration, short_state, status_table, summary

LEISURE = 20.0
"""So many times as long as a look at all cells takes, nobody looks again: thousands of cells, on a slow file system,
would keep it and this machine busy with looking."""


class Progress:
    """Shows a plan's cells while they are worked on. A context manager: inside it the terminal shows a live table.

    Args:
        plan: whose cells.
        console: where to.
    """

    def __init__(self, plan: Plan, console: Console):
        self.plan, self.console = plan, console
        self._live: Live | None = None
        self._last: dict[str, float] = {}
        self._look = 0.0  # seconds that the last one took

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def due(self, what: str, seconds: float) -> bool:
        """Whether `what` was not due for that long."""
        now = time.monotonic()
        if now - self._last.get(what, -1e9) < seconds:
            return False
        self._last[what] = now
        return True

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self.console.print(text, soft_wrap=True)

    def started(self, group: Group) -> None:
        """A worker began."""
        extra = f" and {len(group.cells) - 1} more" if len(group.cells) > 1 else ""
        self.say(f"{group.name}{extra}: started ({group.id})")

    def finished(self, group: Group, states: dict[str, CellState], seconds: float) -> None:
        """A worker ended."""
        for cell in group.cells:
            state = states[cell.name].describe()
            word, why = state.split(": ", 1) if state.startswith("failed: ") else (state, "")
            self.say(f"{cell.name}: {word} after {duration(seconds)}{why and f': {why}'}")

    def update(self, working: Collection[str], waiting: Collection[str] = ()) -> None:
        """Show where things stand; cheap enough for every turn of the launcher's loop.

        Args:
            working: ids of the groups that workers are at.
            waiting: ids of the groups that wait for a worker.
        """
        if self._live:
            if self.due("table", max(1.0, LEISURE * self._look)):
                began, room = time.monotonic(), max(5, self.console.height - 8)
                states = self._states(working, waiting)
                self._live.update(status_table(self.plan, states, self.console.width, room), refresh=True)
                self._look = time.monotonic() - began
        elif working and self.due("line", 30.0):
            states = self._states(working, waiting)
            for name in sorted(group.name for group in self.plan.groups() if group.id in working):
                self.say(f"{name}: {short_state(states[name])}")
            self.say(summary(states))

    def _states(self, working: Collection[str], waiting: Collection[str]) -> dict[str, CellState]:
        """The cells' states, and which of them are about to be worked on: a worker takes seconds to say so itself."""
        states = self.plan.states()
        busy = {cell.group for cell in self.plan.cells if states[cell.name].state == "running"}
        for cell in self.plan.cells:
            if cell.group in working:  # which does one cell after the other
                local: Literal["starting", "queued"] = "queued" if cell.group in busy else "starting"
            elif cell.group in waiting:
                local = "queued"
            else:
                continue
            states[cell.name] = replace(states[cell.name], local=local)
        return states
