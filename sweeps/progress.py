"""What the local launcher shows: a live table on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.live import Live

from sweeps.planner import Group, Plan
from sweeps.state import CellState
from sweeps.table import duration, short_state, status_table, summary


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
        self.console.print(text, markup=False, soft_wrap=True)

    def started(self, group: Group) -> None:
        """A worker began."""
        extra = f" and {len(group.cells) - 1} more" if len(group.cells) > 1 else ""
        self.say(f"{group.name}{extra}: started ({group.id})")

    def finished(self, group: Group, states: dict[str, CellState], seconds: float) -> None:
        """A worker ended."""
        for cell in group.cells:
            self.say(f"{cell.name}: {states[cell.name].describe()} after {duration(seconds)}")

    def update(self, working: set[str]) -> None:
        """Show where things stand; cheap enough for every turn of the launcher's loop.

        Args:
            working: names of the groups that workers are at.
        """
        if self._live:
            if self.due("table", 1.0):
                room = max(5, self.console.height - 8)
                self._live.update(status_table(self.plan, self.plan.states(), self.console.width, room), refresh=True)
        elif working and self.due("line", 30.0):
            states = self.plan.states()
            for name in sorted(working):
                self.say(f"{name}: {short_state(states[name])}")
            self.say(summary(states))
