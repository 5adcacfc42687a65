"""The papers' numbers and claims: reads and checks `reference/*.yaml`.

A file holds the tables of one paper. Every value has a source; one that is not known is null and prints as a dash. A
table may carry claims, which `reports.claims` judges against measured numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from experiments.errors import UserError, unknown
from sweeps.definition import label_of

FOLDER = Path(__file__).parent / "reference"
ClaimKind = Literal["best", "order", "similar", "ratio", "correlation"]
REQUIRED: dict[str, tuple[str, ...]] = {
    "best": ("axis", "label"),
    "order": ("order",),
    "similar": ("left", "right", "tolerance"),
    "ratio": ("left", "right"),
    "correlation": ("x",),
}
"""The keys that each kind of claim needs beside id, text, source, kind and metric."""


@dataclass(frozen=True)
class ReferenceColumn:
    """A column of a published table."""

    label: str
    better: Literal["lower", "higher", "none"] = "none"
    scale: float = 1.0
    """What is printed, in the label's unit, is the value times this."""


@dataclass(frozen=True)
class ReferenceRow:
    """A row of a published table. `match` names the axis labels of the measured rows that it stands beside."""

    id: str
    name: str
    values: Mapping[str, float | None]
    sources: Mapping[str, str]
    match: Mapping[str, str] = field(default_factory=dict)
    approximate: tuple[str, ...] = ()
    """Columns whose value is derived from other published numbers."""

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether a measured row with these axis labels is this row; axes the sweep does not have are ignored."""
        shared = self.match.keys() & labels.keys()
        return bool(shared) and all(labels[axis] == self.match[axis] for axis in shared)


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper in a form that numbers can support or contradict. `{axis: label}` maps name rows."""

    id: str
    text: str
    source: str
    kind: ClaimKind
    metric: str
    """The quantity compared; what may stand in for it is said in `reports.claims`."""
    axis: str = ""
    label: str = ""
    order: tuple[Mapping[str, str], ...] = ()
    """kind order: rows from best to worst."""
    left: Mapping[str, str] = field(default_factory=dict)
    right: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Only rows with one of these labels are looked at: the conditions under which the paper says it."""
    x: str = ""
    """kind correlation: the other quantity."""
    log: bool = False
    """kind correlation: over the logarithm of x."""
    value: float | None = None
    """The published ratio or correlation."""
    tolerance: float | None = None
    """Relative deviation that still agrees; of a stand-in that has a floor, relative to what lies above it."""
    or_better: bool = False
    """kind similar: being better than the right-hand row by any amount agrees too."""
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class ReferenceTable:
    """One published table (or figure, or sentence with numbers)."""

    key: str
    """"maskmamba.table3"."""
    citation: str
    where: str
    title: str
    protocol: str
    columns: Mapping[str, ReferenceColumn]
    rows: tuple[ReferenceRow, ...]
    claims: tuple[Claim, ...]

    def row_for(self, labels: Mapping[str, str]) -> ReferenceRow | None:
        """The published row that a measured row stands beside: it agrees on the most axes. None if unclear."""
        scores = {row.id: len(row.match.keys() & labels.keys()) for row in self.rows if row.fits(labels)}
        best = [row for row in self.rows if row.id in scores and scores[row.id] == max(scores.values())]
        return best[0] if len(best) == 1 else None

    def claim(self, identity: str) -> Claim:
        """The claim of that id. Raises UserError if the table has none."""
        for claim in self.claims:
            if claim.id == identity:
                return claim
        raise unknown(f"claim of {self.key}", identity, [claim.id for claim in self.claims])


def systems() -> list[str]:
    """Names of all reference files."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_table(key: str) -> ReferenceTable:
    """The published table of that key, e.g. "maskmamba.table3". Raises UserError if there is none."""
    system, _, name = key.partition(".")
    if system not in systems():
        raise unknown("reference", key, [f"{s}.{t}" for s in systems() for t in load_system(s)])
    tables = load_system(system)
    if name not in tables:
        raise unknown("reference table", key, [f"{system}.{table}" for table in tables])
    return tables[name]


@cache
def load_system(system: str) -> dict[str, ReferenceTable]:
    """All published tables of one paper, by name."""
    return load_reference(FOLDER / f"{system}.yaml")


def load_reference(path: Path) -> dict[str, ReferenceTable]:
    """Read and check one reference file.

    Raises:
        UserError: a value without a source, an undeclared column, a malformed claim, or a name used twice.
    """
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    system = Checked(raw, path.name).keys("citation", "sources", "tables")
    return {
        name: _table(Checked(body, f"{path.name}: {name}"), f"{path.stem}.{name}", system.raw)
        for name, body in system.raw["tables"].items()
    }


class Checked:
    """A mapping read from YAML, with a place name for errors and no tolerance for unknown keys."""

    def __init__(self, raw: Any, place: str):
        if not isinstance(raw, Mapping):
            raise UserError(f"{place} must be a mapping, not {raw!r}.")
        self.raw, self.place = raw, place

    def keys(self, *required: str, optional: tuple[str, ...] = ()) -> Checked:
        """Raise UserError unless exactly these keys are there."""
        for key in self.raw:
            if key not in required and key not in optional:
                raise unknown(f"key in {self.place}:", str(key), (*required, *optional))
        if missing := [key for key in required if key not in self.raw]:
            raise UserError(f"{self.place} lacks {', '.join(missing)}.")
        return self


def written_out(raw: Any, place: str) -> ReferenceTable:
    """A published table that stands in the sweep itself, with the paper's `citation` among its keys.

    Raises:
        UserError: as `load_reference` does.
    """
    body = Checked(raw, place)
    if "citation" not in body.raw:
        raise UserError(f"{place} lacks citation.")
    table = {key: value for key, value in body.raw.items() if key != "citation"}
    return _table(Checked(table, place), place, {"citation": str(body.raw["citation"]), "sources": {}})


def _table(body: Checked, key: str, system: Mapping[str, Any]) -> ReferenceTable:
    body.keys("where", "title", "source", "columns", "rows", optional=("protocol", "claims"))
    raw = body.raw
    for part in ("rows", "claims"):
        if not isinstance(raw.get(part, []), list):
            raise UserError(f"{body.place}: {part} must be a list, not {raw[part]!r}.")
    place = f"{body.place}: columns"
    columns = {name: _column(spec, f"{place}.{name}") for name, spec in Checked(raw["columns"], place).raw.items()}
    source = f"{raw['source']}, {raw['where']}" if raw["source"] in system["sources"] else raw["source"]
    rows = tuple(_row(Checked(row, body.place), columns, source) for row in raw["rows"])
    claims = tuple(parse_claim(claim, body.place) for claim in raw.get("claims", ()))
    for kind, names in (("rows", [row.id for row in rows]), ("claims", [claim.id for claim in claims])):
        if len(set(names)) < len(names):
            raise UserError(f"{body.place} has {kind} with the same id.")
    return ReferenceTable(
        key=key,
        citation=system["citation"],
        where=raw["where"],
        title=raw["title"],
        protocol=raw.get("protocol", ""),
        columns=columns,
        rows=rows,
        claims=claims,
    )


def _column(raw: Any, place: str) -> ReferenceColumn:
    Checked(raw, place).keys("label", optional=("better", "scale"))
    if raw.get("better", "none") not in ("lower", "higher", "none"):
        raise unknown(f"value of better in {place}:", str(raw["better"]), ("lower", "higher", "none"))
    if isinstance(scale := raw.get("scale", 1.0), bool) or not isinstance(scale, int | float):
        raise UserError(f"{place}: scale={scale!r} must be a number.")
    return ReferenceColumn(**raw)


def _row(body: Checked, columns: Mapping[str, ReferenceColumn], source: str) -> ReferenceRow:
    body.keys("id", "name", "values", optional=("match", "sources", "approximate"))
    raw = body.raw
    place = f"{body.place}, row {raw['id']}"
    Checked(raw["values"], f"{place}: values")
    sources, approximate = raw.get("sources", {}), tuple(raw.get("approximate", ()))
    for name in (*raw["values"], *sources, *approximate):
        if name not in columns:
            raise unknown(f"column in {place}:", name, columns)
    for name, value in raw["values"].items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UserError(f"{place}: {name}={value!r} must be a number, or null where it is not known.")
    return ReferenceRow(
        id=str(raw["id"]),
        name=raw["name"],
        values={name: raw["values"].get(name) for name in columns},
        sources={name: sources.get(name, source) for name in columns if raw["values"].get(name) is not None},
        match=labels_of(raw.get("match", {}), f"{place}: match"),
        approximate=approximate,
    )


def parse_claim(raw: Any, place: str) -> Claim:
    """Read one claim. Raises UserError where its kind is unknown or lacks what it needs."""
    names = tuple(item.name for item in fields(Claim))
    basic = ("id", "text", "source", "kind", "metric")
    body = Checked(raw, f"{place}, claim {raw.get('id', '?') if isinstance(raw, Mapping) else '?'}")
    body.keys(*basic, optional=names[len(basic) :])
    values = dict(raw)
    if values["kind"] not in get_args(ClaimKind):
        raise unknown("kind of claim", values["kind"], get_args(ClaimKind))
    body.keys(*basic, *REQUIRED[values["kind"]], optional=names)
    for key in ("value", "tolerance", "at_least", "at_most"):
        number = values.get(key)
        if isinstance(number, bool) or not isinstance(number, int | float | None):
            raise UserError(f"{body.place}: {key}={number!r} must be a number, such as 0.05.")
    for key in ("log", "or_better"):
        if not isinstance(values.get(key, False), bool):
            raise UserError(f"{body.place}: {key}={values[key]!r} must be true or false.")
    for key in ("left", "right"):
        values[key] = labels_of(values.get(key, {}), f"{body.place}: {key}")
    values["where"] = choices_of(values.get("where", {}), f"{body.place}: where")
    if not isinstance(values.get("order", ()), list | tuple):
        raise UserError(f"{body.place}: order={values['order']!r} must be a list of rows.")
    values["order"] = tuple(labels_of(item, f"{body.place}: order") for item in values.get("order", ()))
    values["label"] = label_of(values.get("label", ""))
    claim = Claim(**values)
    if claim.kind == "order" and len(claim.order) < 2:
        raise UserError(f"{body.place}: order needs at least two rows.")
    bounded = claim.at_least is not None or claim.at_most is not None
    exact = claim.value is not None and claim.tolerance is not None
    if claim.kind in ("ratio", "correlation") and not (bounded or exact):
        raise UserError(f"{body.place} needs at_least, at_most, or a value with a tolerance.")
    return claim


def labels_of(raw: Any, place: str) -> dict[str, str]:
    """Axis -> label. Labels are text, as the axes have them: YAML's 4 and "4" are the same label, and so are its true
    and "true". Raises UserError where `raw` is no mapping.

    Args:
        place: for the error, such as "report.baseline".
    """
    return {str(axis): label_of(label) for axis, label in Checked(raw, place).raw.items()}


def choices_of(raw: Any, place: str) -> dict[str, tuple[str, ...]]:
    """Axis -> labels, each as `labels_of` reads it; one label may stand without brackets. Raises UserError for none."""
    found = {
        str(axis): tuple(map(label_of, labels if isinstance(labels, list) else [labels]))
        for axis, labels in Checked(raw, place).raw.items()
    }
    for axis, labels in found.items():
        if not labels:
            raise UserError(f"{place} names no label of {axis}, so no row is left; name one, or leave {axis} out.")
    return found
