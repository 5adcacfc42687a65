"""A request to stop, left as a file in the sweep's folder: it reaches the sweep's launchers on whatever host they run,
and none but these."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from experiments.files import atomic_write_json
from experiments.status import Status
from sweeps.queue import Queue


def request_cancel(folder: Path, keep: Iterable[str]) -> None:
    """Ask the launchers at work on the sweep to stop all trainings but those in `keep`."""
    atomic_write_json(folder / "cancel.json", {"keep": sorted(keep), "at": time.time(), "by": os.getpid()})


def note_worker(folder: Path, group: str, pid: int) -> None:
    """Note that a launcher of the sweep, which heeds requests, has begun a process on this host to work on a group."""
    path = _workers(folder, group)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{socket.gethostname()} {pid}\n")


def is_ours(folder: Path, group: str, status: Status, queue: Queue) -> bool:
    """Whether a launcher of the sweep began the process that owns a group's work, or Slurm on its behalf."""
    with suppress(OSError):
        if f"{status.host} {status.pid}" in _workers(folder, group).read_text(encoding="utf-8").splitlines():
            return True
    return any(task.job == status.job for task in queue.of(group))


def _workers(folder: Path, group: str) -> Path:
    return folder / "jobs" / group / "workers.txt"


class CancelWatch:
    """Notices requests that are made after the watch began."""

    def __init__(self, folder: Path):
        self._path = folder / "cancel.json"
        self._seen = self._read()

    def requested(self) -> set[str] | None:
        """The trainings to keep, once after each new request; else None."""
        text = self._read()
        if text == self._seen or not text:
            return None
        self._seen = text
        return set(json.loads(text)["keep"])

    def _read(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8")
        except OSError:
            return ""
