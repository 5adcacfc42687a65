"""Remembers the expansion of a sweep, so that plans and tables of thousands of cells are instant.

An entry holds as long as every file it was made from is unchanged: the project's own (`source_stamp`), the definition,
and presets, weights and data of one's own. It saves time and nothing else: it may be removed at any moment.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from experiments.errors import UserError
from experiments.files import atomic_write_text
from experiments.flat import flatten
from experiments.presets import is_file_name
from sweeps.cell import Cell

PROJECT = Path(__file__).parent.parent
PACKAGES = ("experiments", "lightning_modules", "datamodules", "sweeps")
SOURCES = (".py", ".yaml", ".npz", ".safetensors")
"""Endings of the packages' files that cells and models are made of: code, presets, definitions, data, weights."""


@cache
def source_stamp() -> str:
    """A digest of the packages' own files by name, size and time of change, as this process found them first.

    All of them, not those that happen to be imported: which these are depends on what was asked for, and on what other
    caches already knew.
    """
    found = sorted(stamp for package in PACKAGES for stamp in _stamps(PROJECT / package))
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def _stamps(folder: Path) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _stamps(Path(entry.path))
            elif entry.name.endswith(SOURCES) and entry.is_file():  # and no dangling link, as an editor's lock is
                stat = entry.stat()
                yield os.path.relpath(entry.path, PROJECT), stat.st_mtime_ns, stat.st_size


def plan_path(root: Path, sweep: str, scale: str, key: Mapping[str, Any]) -> Path:
    """Where the expansion for `key` is kept."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    return root / "cache" / "plans" / f"{sweep}-{scale}-{digest}.json"


def read_plan(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The remembered cells and exclusions, or None if there are none that still hold."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        fits = entry["key"] == key and entry["sources"] == source_stamp()
        if fits and all(_stamp(Path(name)) == stamp for name, stamp in entry["files"].items()):
            return entry
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # no entry, or one of another version: expanding again repairs it
    return None


def write_plan(
    path: Path, key: Mapping[str, Any], cells: Iterable[Any], excluded: Iterable[Any], files: Iterable[Path]
) -> None:
    """Remember an expansion, if the folder of outputs is there already: a dry run creates none."""
    if not path.parents[2].is_dir():
        return
    entry = {
        "key": key,
        "sources": source_stamp(),
        "files": {str(file): _stamp(file) for file in sorted(files)},
        "cells": [asdict(cell) for cell in cells],
        "excluded": [asdict(item) for item in excluded],
    }
    # A cache that cannot be written is no reason to fail.
    with suppress(UserError, TypeError):
        atomic_write_text(path, json.dumps(entry))


def _stamp(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_mtime_ns, stat.st_size]


def files_of(definition: Path, cells: Iterable[Cell]) -> set[Path]:
    """Files and folders that the cells' identities depend on, beside the sources and the presets that come with them:
    the definition, presets of one's own with all that these are made of or start from, and whatever a setting names:
    weights, stores, references."""
    presets, values = set[str](), set[str]()
    for cell in cells:
        presets.add(cell.preset)
        values |= _paths(cell.overrides)
    files, todo = {definition}, [Path(name) for name in (presets | values) if is_file_name(name)]
    seen = set[Path]()
    while todo:
        if (path := todo.pop()) in seen:
            continue
        seen.add(path)
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):  # no preset, but text that ends alike
            continue
        base, own = (raw.pop("base", None), _paths(flatten(raw))) if isinstance(raw, dict) else (None, set[str]())
        files.add(path)
        values |= own
        todo += [Path(name) for name in own if is_file_name(name)] + ([path.parent / base] if base else [])
    return files.union(*(_content(Path(value)) for value in values))


def _paths(settings: Mapping[str, Any]) -> set[str]:
    """The texts among settings, any of which may name a file."""
    return {value for key, value in settings.items() if isinstance(value, str) and not key.startswith("runtime.")}


def _content(path: Path) -> set[Path]:
    """A file, or of a folder what changes when something in it does: itself, what is in it, and, one deeper, folders
    and the descriptions of stores."""
    try:
        if not path.is_dir():
            return {path} if path.is_file() else set()
        inside = set(path.iterdir())
        deeper = {found for place in inside if place.is_dir() for found in place.iterdir()}
    except OSError:  # no path at all, such as a long text, or one that cannot be read
        return set()
    return {path, *inside, *(found for found in deeper if found.suffix in (".json", ".npy") or found.is_dir())}
