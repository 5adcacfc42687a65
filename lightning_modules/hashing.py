"""Checksums of files: what stands for a file in the identity of a run."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, computed once per process while size and time of the file stay the same."""
    status = path.stat()
    return _cached_sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _cached_sha256(path: Path, size: int, modified_ns: int) -> str:
    return sha256_of(path)


def text_sha256(text: str) -> str:
    """Hex sha256 of a string's UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
