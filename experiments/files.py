"""Atomic writes of text and JSON, whose failures are told in one sentence."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from experiments.errors import UserError
from lightning_modules import files

DEFAULT_ROOT = "outputs"
"""The folder of outputs where neither a command nor the environment names one."""

_UNREADABLE = (OSError, EOFError, ValueError, KeyError, SyntaxError, zipfile.BadZipFile, zlib.error)
"""What numpy and Pillow raise where a file is damaged; SyntaxError is Pillow's of a broken PNG."""


def default_root() -> str:
    """The folder of outputs where no command names one: the environment variable ABLATE_ROOT, else ./outputs."""
    return os.environ.get("ABLATE_ROOT") or DEFAULT_ROOT


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """See `lightning_modules.files.atomic_path`.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    try:
        with files.atomic_path(path) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk by an error of its own
        raise _unwritable(path, error) from error


def check_root(root: str) -> str:
    """Return the folder of outputs. Raises UserError where it cannot be one: it lies in a file, or is one."""
    for place in (Path(root), *Path(root).parents):
        if os.path.exists(place) and not os.path.isdir(place):
            raise UserError(
                f"The folder of outputs cannot be {root}: {place} is a file. Name another place with --root DIR, "
                "runtime.root=DIR or the environment variable ABLATE_ROOT."
            )
    return root


def make_folder(path: Path) -> None:
    """Make a folder and those above it, before work whose result goes there.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically, as indented JSON. NaN and infinity are refused: they are not JSON."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is none.
        UserError: the file is damaged, or cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run the same command again.") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> UserError:
    """The error for what is there and cannot be read: another user's, a folder in a file's place, a broken disk."""
    return UserError(f"Cannot read {path}: {error.strerror or error}; make it readable, or move it out of the way.")


@contextmanager
def reading(path: Path, way_out: str) -> Iterator[None]:
    """Inside the block a file of arrays or pixels is read.

    Args:
        way_out: what to do about a damaged one, as the end of a sentence.

    Raises:
        UserError: it is damaged, or gone.
    """
    try:
        yield
    except _UNREADABLE as error:
        raise UserError(f"Cannot read {path} ({error or type(error).__name__}); {way_out}.") from error


def _unwritable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(
        f"Cannot write {path}: {reason}. Free some space or name another place: with --out where the command has it, "
        "else with runtime.root=DIR or the environment variable ABLATE_ROOT."
    )
