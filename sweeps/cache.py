"""Remembers the expansion of a sweep, so that plans and tables of thousands of cells are instant.

An entry holds as long as every file it was made from is unchanged: the definition, the presets, the project's sources,
weights and data. It saves time and nothing else: it may be removed at any moment.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import atomic_write_json, atomic_write_text, read_json
from experiments.presets import PRESETS

PROJECT = Path(__file__).parent.parent
PACKAGES = ("experiments", "lightning_modules", "datamodules", "sweeps")
DATA = ("datamodules/*/*.npz", "lightning_modules/*/weights/*")
"""Files of the packages that enter a run's identity."""


def plan_path(root: Path, sweep: str, scale: str, key: Mapping[str, Any]) -> Path:
    """Where the expansion for `key` is kept."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    return root / "cache" / "plans" / f"{sweep}-{scale}-{digest}.json"


def read_plan(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The remembered cells and exclusions, or None if there are none that still hold."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["key"] == key and all(_stamp(Path(name)) == stamp for name, stamp in entry["files"].items()):
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
    every = sorted({*files, *_sources(), *PRESETS.rglob("*.yaml"), *(p for g in DATA for p in PROJECT.glob(g))})
    entry = {
        "key": key,
        "files": {str(file): _stamp(file) for file in every},
        "cells": [asdict(cell) for cell in cells],
        "excluded": [asdict(item) for item in excluded],
    }
    # A cache that cannot be written is no reason to fail.
    with suppress(UserError, TypeError):
        atomic_write_text(path, json.dumps(entry))


def _sources() -> set[Path]:
    """The project's modules that have been imported so far: those that took part in the expansion."""
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in PACKAGES]
    return {Path(file) for module in modules if (file := getattr(module, "__file__", None))}


def _stamp(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_mtime_ns, stat.st_size]


def read_amendments(folder: Path) -> dict[str, dict[str, Any]]:
    """Overrides of single cells, by name, that `ablate retry SWEEP KEY=VALUE` left in the sweep's folder."""
    path = folder / "amendments.json"
    try:
        found = read_json(path)
    except FileNotFoundError:
        return {}
    if not isinstance(found, dict) or not all(isinstance(changes, dict) for changes in found.values()):
        raise UserError(f'{path} is damaged: it must hold {{"cell": {{"key": value}}}}; fix it, or remove it.')
    return found


def write_amendments(folder: Path, amendments: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace them."""
    atomic_write_json(folder / "amendments.json", amendments)
