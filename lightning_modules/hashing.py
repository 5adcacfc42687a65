"""Checksums of files: what stands for a file in the identity of a run, and what tells that it has been damaged."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with _opened(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, computed once per process while size and time of the file stay the same."""
    status = path.stat()
    return _cached_sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _cached_sha256(path: Path, size: int, modified_ns: int) -> str:
    return sha256_of(path)


def file_crc32(path: Path) -> str:
    """CRC-32 of a file's bytes, eight hex digits: finds damage at gigabytes a second, several times as fast as sha256,
    so that it can be looked for at every load."""
    value = 0
    with _opened(path) as stream:
        while part := stream.read(1 << 22):
            value = zlib.crc32(part, value)
    return f"{value:08x}"


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """The file, whose name goes into the error where it cannot be read: the system leaves it out."""
    try:
        with open(path, "rb") as stream:
            yield stream
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def text_sha256(text: str) -> str:
    """Hex sha256 of a string's UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
