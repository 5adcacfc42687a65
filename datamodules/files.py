"""Files that other processes read at the same time: atomic writes, locks and checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lightning_modules.files import atomic_path
from lightning_modules.hashing import sha256_of


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call ``write(stream)`` on a temporary file beside ``path``, flush it to disk and move it into place.

    A reader sees the old file or the new one, never half of one.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        write(stream)


def check_files(folder: Path, files: Mapping[str, Mapping[str, Any]], checksums: bool) -> str | None:
    """What is wrong with the first file that is not as recorded, or None.

    Args:
        files: name -> {"bytes": size, "sha256": digest}.
        checksums: read everything; otherwise only sizes are compared, which finds truncation.
    """
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != expected["bytes"]:
            return f"{name} has {size} bytes instead of {expected['bytes']}"
        if checksums and sha256_of(path) != expected["sha256"]:
            return f"the checksum of {name} is wrong"
    return None


@contextmanager
def work_lock(path: Path) -> Iterator[bool]:
    """Keep other processes from doing the same work at the same time, where the file system can.

    Saves time only: callers must stay correct without it, since some network file systems do not lock.
    The kernel releases the lock when its holder dies. Yields whether the file system locks.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
            locked = True
        except OSError:
            locked = False  # the work may be done twice, and the first to finish wins
        yield locked
