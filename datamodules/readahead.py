"""Bring a file into the page cache while it is already in use.

Training reads a store at random places, which disks and network file systems answer slowly until the file is in
memory. Read once from front to back, it is there within seconds.
"""

from __future__ import annotations

import threading
from pathlib import Path

BLOCK = 8 << 20
SHARE = 0.5
"""Of the memory that is available, how much a file may take to be read ahead."""


def read_ahead(path: Path) -> threading.Thread | None:
    """Read a file in the background, for the page cache alone; None, and nothing, where it is too large for that."""
    if path.stat().st_size > SHARE * available_bytes():
        return None
    thread = threading.Thread(target=_read, args=(path,), name=f"read-ahead {path.name}", daemon=True)
    thread.start()
    return thread


def available_bytes() -> int:
    """Memory that can be had without swapping; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 0


def _read(path: Path) -> None:
    buffer = bytearray(BLOCK)
    try:
        with open(path, "rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    except OSError:
        pass  # whoever needs the file will see the error where it matters
