"""How far a long step is: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

log = logging.getLogger(__name__)
EVERY_S = 30.0


class Counter:
    """Counts images against a total that may not be known; `show` decides where to."""

    def __init__(self, title: str, total: int | None):
        self.title, self.total = title, total
        self.done = self.refused = 0
        self._began = self._told = time.monotonic()

    def add(self, done: int, refused: int = 0) -> None:
        """Count images as done, `refused` of them without success."""
        self.done += done
        self.refused += refused
        if time.monotonic() - self._told >= EVERY_S:
            self._told = time.monotonic()
            log.info("%s", self)

    def __str__(self) -> str:
        rate = self.done / max(time.monotonic() - self._began, 1e-6)
        parts = [f"{self.title}: {self.done:,}" + (f" of {self.total:,}" if self.total else "") + " images"]
        parts.append(f"{rate:.0f}/s")
        if self.total and rate:
            parts.append(f"{timedelta(seconds=round(max(self.total - self.done, 0) / rate))} left")
        if self.refused:
            parts.append(f"{self.refused:,} refused")
        return ", ".join(parts)


@contextmanager
def counting(title: str, total: int | None) -> Iterator[Counter]:
    """A counter that is shown while the block runs."""
    counter = Counter(title, total)
    if not sys.stderr.isatty():
        yield counter
        log.info("%s", counter)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    def picture() -> Table:
        row = Table.grid(padding=(0, 1))
        row.add_row(ProgressBar(total=counter.total, completed=counter.done, width=30), str(counter))
        return row

    with Live(get_renderable=picture, console=Console(stderr=True), refresh_per_second=4):
        yield counter
