"""A request to stop, left as a file in the sweep's folder: it reaches the launcher on whatever host that runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from experiments.files import atomic_write_json


def request_cancel(folder: Path, keep: Iterable[str]) -> None:
    """Ask the launchers at work on the sweep to stop all trainings but those in `keep`."""
    atomic_write_json(folder / "cancel.json", {"keep": sorted(keep), "at": time.time(), "by": os.getpid()})


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
