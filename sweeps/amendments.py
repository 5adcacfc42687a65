"""Overrides of single cells that `ablate retry SWEEP KEY=VALUE` leaves in the sweep's folder, as amendments.json.

They go by labels and seed, so that a cell keeps its own however the sweep is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config import to_dict
from experiments.errors import UserError
from experiments.files import atomic_write_json, read_json
from experiments.flat import flatten
from experiments.overrides import parse_overrides
from lightning_modules.names import some
from sweeps.axes import matches
from sweeps.cell import Cell, cell_name
from sweeps.equal_compute import STEPS

if TYPE_CHECKING:
    from sweeps.planner import Plan

Amendments = Mapping[str, Mapping[str, Any]]
"""Name of a cell, with its seed -> what is set over everything else there."""


def amendments_path(folder: Path) -> Path:
    """Where a sweep's folder keeps them."""
    return folder / "amendments.json"


def read_amendments(folder: Path) -> dict[str, dict[str, Any]]:
    """Those of a sweep's folder. Raises UserError if the file is damaged."""
    path = amendments_path(folder)
    try:
        found = read_json(path)
    except FileNotFoundError:
        return {}
    except UserError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(changes, dict) for changes in found.values()):
        raise UserError(
            f'{path} is damaged: it must hold {{"cell": {{"key": value}}}}; fix it, or remove it, which takes back all '
            "changes that `ablate retry` made."
        )
    return found


def write_amendments(folder: Path, amendments: Amendments) -> None:
    """Replace them."""
    atomic_write_json(amendments_path(folder), amendments)


def amendment_of(
    amendments: Amendments, labels: Mapping[str, str], seed: int, seeds: Collection[int], sweep: str
) -> Mapping[str, Any]:
    """What is amended in one cell; {} if nothing is.

    Args:
        seeds: the scale's own. Files of earlier versions name a cell of the first one without it.
        sweep: its name, by which they have the only cell of a sweep without axes.
    """
    keys = [cell_name(labels, seed), *([cell_name(labels, None, sweep)] if seed == next(iter(seeds)) else [])]
    return next((amendments[key] for key in keys if key in amendments), {})


def amend(
    plan: Plan, cells: Iterable[Cell], change: Iterable[str], again: Callable[[Amendments], Plan]
) -> tuple[Plan, Amendments]:
    """Give cells overrides of their own; a key that gets its original value has none any more. Nothing is written.

    Args:
        change: "key=value" words.
        again: plans the same with other amendments.

    Returns:
        The plan with them, and all amendments of the sweep.

    Raises:
        UserError: a key that makes the cell what its labels say; the changed cells cannot be built.
    """
    cells, new, found = tuple(cells), parse_overrides(change), read_amendments(plan.folder)
    first = plan.sweep.config.scales[plan.scale].seeds[0]
    for cell in cells:
        _check(plan, cell, new)
        if cell.seed == first:  # which files of earlier versions name without it
            found.pop(cell_name(cell.labels, None, plan.sweep.name), None)
        found[cell_name(cell.labels, cell.seed)] = {**cell.amended, **new}
    changed, plain = again(found), again({})
    for cell in cells:
        name = cell_name(cell.labels, cell.seed)
        new, own = (flatten(to_dict(which.find(cell.name).config)) for which in (changed, plain))
        found[name] = {key: value for key, value in found[name].items() if new.get(key, value) != own.get(key)}
    kept = {name: changes for name, changes in found.items() if changes}
    return again(kept), kept


def _check(plan: Plan, cell: Cell, new: Mapping[str, Any]) -> None:
    """Raise UserError if one of these keys is not a cell's to choose."""
    sweep, equal = plan.sweep, plan.sweep.config.equal_compute
    fixed = {item["key"]: "search.space" for item in sweep.config.search.get("space", [])}
    fixed |= {STEPS: "equal_compute"} if equal and matches(cell.labels, equal.when) else {}
    for axis in sweep.axes:
        for choice in axis.choices:
            if cell.labels.get(axis.name) == choice.label and matches(cell.labels, choice.when):
                fixed |= dict.fromkeys(choice.overrides, f"axis '{axis.name}'")
    for key, value in new.items():
        if key in ("seed", "runtime.root"):
            raise UserError(f"{key}={value}: {cell.name} would be another cell; leave it out.")
        for other, place in fixed.items():
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                raise UserError(
                    f"{key}={value}: {place} sets {other}, so {cell.name} would not be what the table calls it; put "
                    f"the value into {place} in {sweep.path}."
                )


def amendment_words(amended: Mapping[str, Any]) -> list[str]:
    """Amendments as they are typed."""
    return [f"{key}={'null' if value is None else value}" for key, value in amended.items()]


def tell_amendments(cells: Iterable[Cell], plain: Iterable[Cell]) -> list[str]:
    """What is amended in cells, and how that is taken back.

    Args:
        plain: the same cells without amendments, among others.
    """
    before, names = {cell.name: cell for cell in plain}, dict[tuple[str, str], list[str]]()
    for cell in cells:
        own = flatten(to_dict(before[cell.name].config))
        original = amendment_words({key: own[key] for key in cell.amended if key in own})
        names.setdefault((" ".join(amendment_words(cell.amended)), " ".join(original)), []).append(cell.name)
    lines = []
    for (amended, own_again), found in names.items():
        listed = some(found, 3)
        back = f"; `ablate retry` with {own_again} takes it back" if own_again else ""
        lines.append(f"{listed}: {amended} from now on{back}." if amended else f"{listed}: no longer amended.")
    return lines
