"""Which sweeps were begun under a root, with what, and which runs they still need."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import atomic_write_text, read_json
from experiments.shapes import misfit
from experiments.store import RunStore
from sweeps.own_presets import keep_presets
from sweeps.planner import Cell, Plan

CELL = dict.fromkeys(("name", "group", "run_id", "eval_id", "search_id", "measure"), str)
SHAPE = {"sweep": str, "scale": str, "words": [str], "file": str, "cells": [CELL]}
"""Of plan.json."""


def register(plan: Plan) -> None:
    """Write plan.json into the sweep's folder: it is begun now. Keeps the cells of earlier, partial requests.

    The definition of a sweep of one's own is put beside it with the presets it names, since these files may move.
    """
    cells = {cell.name: asdict(cell) for cell in plan.cells}
    path = plan.folder / "plan.json"
    with suppress(UserError):
        cells = {**{cell["name"]: cell for cell in (_read(path) or {}).get("cells", [])}, **cells}
    record = {"schema": 1, "sweep": plan.sweep.name, "scale": plan.scale, "words": list(plan.request.words)}
    if plan.name_or_path != plan.sweep.name:
        record["file"] = plan.name_or_path
        if (copy := _copy(plan.folder, plan.sweep.name)) != plan.sweep.path:
            atomic_write_text(copy, plan.sweep.path.read_text(encoding="utf-8"))
            keep_presets(plan.sweep.path, copy.parent)
    text = json.dumps({**record, "cells": list(cells.values())}, indent=1)
    if not path.exists() or path.read_bytes() != text.encode():
        atomic_write_text(path, text)


def is_begun(root: Path, folder: str) -> bool:
    """Whether the sweep with this folder's name was begun under a root."""
    return (root / "sweeps" / folder / "plan.json").exists()


def begun(root: Path, lost: list[str] | None = None) -> list[dict[str, Any]]:
    """The plan.json of every sweep that was begun, with its folder under "folder".

    Args:
        lost: given by those who need no cells: plans of another version are good enough then, and a damaged one is
            noted here.

    Raises:
        UserError: a plan is damaged or of another version, and `lost` is not given.
    """
    found = []
    for path in sorted((root / "sweeps").glob("*/plan.json")):
        try:
            if record := _read(path, cells=lost is None):
                found.append({**record, "folder": path.parent})
        except UserError as error:
            if lost is None:
                raise
            lost.append(str(error))
    return found


def submitted_definition(plan: Plan) -> str:
    """What names a registered plan's sweep to a job that comes later: its name, or the copy of one's own definition,
    which may be changed meanwhile."""
    named = plan.name_or_path == plan.sweep.name
    return plan.sweep.name if named else str(_copy(plan.folder, plan.sweep.name))


def definition_of(record: Mapping[str, Any]) -> str:
    """What names a begun sweep to `plan`: its name; of one's own its file, and where that is gone the copy of it."""
    file, copy = record.get("file"), _copy(record["folder"], record["sweep"])
    if file and copy.is_file() and not Path(file).is_file():
        return str(copy)
    return file or record["sweep"]


def _copy(folder: Path, name: str) -> Path:
    """Where the definition of a sweep of one's own is kept: under its name, which a definition's file must have."""
    return folder.resolve() / "definition" / f"{name}.yaml"


def needed_elsewhere(plan: Plan, groups: Collection[str]) -> dict[str, str]:
    """Those of these groups of cells that another begun sweep still waits for: id -> that sweep, as a person would type
    it."""
    store, result = RunStore(plan.root), {}
    for record in begun(plan.root) if groups else ():
        if record["folder"] == plan.folder:
            continue
        for cell in record["cells"]:
            if cell["group"] in groups and cell["group"] not in result and not _is_done(Cell(**cell), store):
                result[cell["group"]] = f"{record['sweep']} --scale {record['scale']}"
    return result


def _is_done(cell: Cell, store: RunStore) -> bool:
    try:
        return cell.works(store)[-1].is_done()
    except UserError:  # a damaged result has to be made again
        return False


def _read(path: Path, cells: bool = True) -> Mapping[str, Any] | None:
    try:
        record = read_json(path)
    except FileNotFoundError:
        return None
    try:
        if not misfit(record, SHAPE) and {"sweep", "scale", "words", "cells"} <= record.keys():
            if cells:
                [Cell(**cell) for cell in record["cells"]]
            return record
    except TypeError:
        pass
    raise UserError(f"{path} is damaged or of another version; remove it and run the sweep again.")
