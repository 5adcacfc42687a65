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
    """Counts images against a total. Where that is not known, as with tar shards, parts done tell the time left."""

    def __init__(self, title: str, total: int | None, parts: int = 0):
        self.title, self.total, self.parts = title, total, parts
        self.done = self.refused = self.parts_done = 0
        self._began = self._told = time.monotonic()

    def add(self, done: int, refused: int = 0) -> None:
        """Count images as done, `refused` of them without success."""
        self.done += done
        self.refused += refused
        if self.total:
            self.total = max(self.total, self.done)  # what a list names and no file is there for comes on top
        if time.monotonic() - self._told >= EVERY_S:
            self._told = time.monotonic()
            log.info("%s", self)

    def end_part(self) -> None:
        """Count one part as done."""
        self.parts_done += 1

    @property
    def share(self) -> float:
        """How much of the work is done, 0 where that is not known."""
        return self.done / self.total if self.total else self.parts_done / self.parts if self.parts else 0.0

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-6)
        words = [f"{self.title}: {self.done:,}" + (f" of {self.total:,}" if self.total else "") + " images"]
        if self.parts and not self.total:
            words.append(f"{self.parts_done:,} of {self.parts:,} parts")
        words.append(f"{self.done / seconds:.0f}/s")
        if self.share:
            words.append(f"{timedelta(seconds=round(max(seconds / self.share - seconds, 0)))} left")
        if self.refused:
            words.append(f"{self.refused:,} refused")
        return ", ".join(words)


@contextmanager
def counting(title: str, total: int | None, parts: int = 0) -> Iterator[Counter]:
    """A counter that is shown while the block runs."""
    counter = Counter(title, total, parts)
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
        known = bool(counter.total or counter.parts)
        row.add_row(ProgressBar(total=1 if known else None, completed=counter.share, width=30), str(counter))
        return row

    with Live(get_renderable=picture, console=Console(stderr=True), refresh_per_second=4):
        yield counter
