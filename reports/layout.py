"""How a sweep's report looks: reads and checks the `report` block of a sweep definition (described in README.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from experiments.errors import UserError, unknown
from lightning_modules.metrics.config import METRICS
from reports.crossing import Crossing, is_positive, parse_crossing
from reports.quantities import CHOSEN, STAND_INS, Better, Printed, Quantity, quantity
from reports.reference import (
    Checked,
    Claim,
    ReferenceTable,
    choices_of,
    labels_of,
    load_table,
    parse_claim,
    written_out,
)

FigureKind = Literal["bars", "curves", "lines", "scatter", "pareto"]
FIGURE_NEEDS = {
    "bars": ("y",),
    "curves": ("y",),
    "lines": ("x", "y"),
    "scatter": ("x", "y"),
    "pareto": ("x", "y"),
}
ANY_FIGURE = ("kind", "where", "log", "title", "label")
POINTS = (*ANY_FIGURE, "beside", "panels", "colour", "marker")
FIGURE_TAKES = {**dict.fromkeys(FIGURE_NEEDS, ANY_FIGURE), "scatter": (*POINTS, "fit"), "pareto": POINTS}
"""What each kind may have besides what it needs."""


@dataclass(frozen=True)
class Column(Printed):
    """One measured quantity, and the published column that stands beside it."""

    metric: str
    label: str
    better: Better
    format: str
    scale: float
    paper: str = ""
    """Column of the reference table; "" = none."""
    description: str = ""


@dataclass(frozen=True)
class Figure:
    """One figure. `x` is a quantity, or for lines an axis, of whose others each combination has a line; `y` is a
    quantity, or for curves a key of metrics.jsonl."""

    kind: FigureKind
    y: str
    x: str = ""
    beside: tuple[str, ...] = ()
    """scatter, pareto: further quantities in the place of x, a column of panels for each."""
    panels: str = ""
    """scatter, pareto: a row of panels for each label of this axis."""
    colour: str = ""
    """scatter, pareto: rows with the same label on this axis share a colour, instead of standing by their names."""
    marker: str = ""
    """scatter, pareto: and those with the same label on this axis a marker; lines join the points of one colour."""
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Only rows with one of these labels on these axes."""
    log: str = ""
    """Logarithmic axes: "x", "y" or "xy"."""
    fit: bool = False
    """scatter: with a least-squares line and r."""
    title: str = ""
    label: str = ""
    """Of y, in the place of the quantity's own; a loss that is no likelihood, say."""

    @property
    def up(self) -> Quantity:
        """The quantity on the y axis, under the label that this figure gives it."""
        known = quantity(self.y)
        return replace(known, label=self.label) if self.label else known

    @property
    def name(self) -> str:
        """File name without suffix, which figures that differ in their looks alone share."""
        chosen = [part for axis, labels in self.where.items() for part in (axis, *labels)]
        return "_".join(part.replace("/", "-") for part in (self.kind, self.y, self.x, *chosen) if part)


@dataclass(frozen=True)
class Layout:
    """The layout of one sweep's report."""

    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    group: str = ""
    spread: str = ""
    baseline: Mapping[str, str] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    reference: ReferenceTable | None = None
    claims: tuple[Claim, ...] = ()
    footnotes: tuple[str, ...] = ()
    samples: int = 9
    """Images per row of the sample grid; 0 = no grid."""
    stages: int | tuple[float, ...] = 0
    """Steps of the training that samples are shown of: how many, spread evenly, or which, as shares of the training;
    0 = none."""
    crossings: tuple[Crossing, ...] = ()

    @property
    def ranked_by(self) -> str:
        """The first quantity of which some values are better; "" where no column has one."""
        return next((column.metric for column in self.columns if column.better != "none"), "")

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes that name a row, outermost first."""
        return (self.group, *self.rows) if self.group else self.rows


def parse_layout(report: Mapping[str, Any], axes: Mapping[str, Sequence[str]]) -> Layout:
    """Read the `report` block of a sweep definition.

    Args:
        axes: the sweep's axes, name -> labels.

    Raises:
        UserError: an unknown key, axis, label, claim or reference; an axis that has no place in the table.
    """
    body = Checked(report, "report").keys(
        "rows",
        "columns",
        optional=(
            *("group", "spread", "baseline", "figure", "reference", "claims", "footnotes", "samples", "stages"),
            "crossing",
        ),
    )
    raw = body.raw
    for key in ("columns", "figure", "claims", "footnotes", "crossing"):
        if not isinstance(raw.get(key) or [], list | tuple):
            raise UserError(f"report.{key} must be a list, not {raw[key]!r}.")
    if not isinstance(raw["rows"], str | list | tuple):
        raise UserError(f"report.rows must be an axis or a list of axes, not {raw['rows']!r}.")
    rows = (raw["rows"],) if isinstance(raw["rows"], str) else tuple(raw["rows"])
    group, spread = raw.get("group", ""), raw.get("spread", "")
    placed = [axis for axis in (group, *rows, spread) if axis]
    for axis in placed:
        if str(axis) not in axes:
            raise unknown("axis in report:", str(axis), axes)
    if lost := [axis for axis in axes if axis not in placed]:
        raise UserError(
            f"report gives the axis {', '.join(lost)} no place, and averaging over it would hide it; name it under "
            "rows, group or spread."
        )
    reference = _reference(raw.get("reference"), axes)
    columns = tuple(_column(item, reference) for item in raw["columns"])
    return Layout(
        rows=rows,
        columns=columns,
        group=group,
        spread=spread,
        baseline=_baseline(raw.get("baseline", {}), axes),
        figures=tuple(_figure(item, axes) for item in raw.get("figure", ())) or _default_figures(columns),
        reference=reference,
        claims=_claims(raw.get("claims"), reference, axes),
        footnotes=tuple(raw.get("footnotes", ())),
        samples=_count("samples", raw.get("samples", 9), "images"),
        stages=_stages(raw.get("stages", 0)),
        crossings=tuple(parse_crossing(item, axes) for item in raw.get("crossing", ())),
    )


def _stages(value: Any) -> int | tuple[float, ...]:
    if not isinstance(value, list | tuple):
        return _count("stages", value, "steps of the training")
    if not all(isinstance(share, int | float) and 0 < share <= 1 for share in value):
        raise UserError(f"report.stages={value!r} must be shares of the training, above 0 and at most 1.")
    return tuple(float(share) for share in value)


def _count(key: str, value: Any, of: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"report.{key}={value!r} must be a number of {of}, or 0 for none.")
    return value


def _reference(raw: Any, axes: Mapping[str, Sequence[str]]) -> ReferenceTable | None:
    """The published table, by its name or written out for this sweep: what that one's rows match must be here."""
    if not isinstance(raw, Mapping):
        return load_table(str(raw)) if raw else None
    table = written_out(raw, "report.reference")
    for row in table.rows:
        _known_labels(row.match.items(), f"reference, row {row.id}", axes)
    for claim in table.claims:
        _own_claim(claim, axes)
    return table


def _column(item: Any, reference: ReferenceTable | None) -> Column:
    body = {"metric": item} if isinstance(item, str) else item
    Checked(body, "report.columns").keys("metric", optional=("label", "best", "format", "scale", "paper"))
    _known_metric(body["metric"], "columns")
    known = quantity(body["metric"])
    label = str(body.get("label", known.label))
    better: Any = body.get("best", known.better)
    if better not in get_args(Better):
        raise unknown("value of best", str(better), get_args(Better))
    if body["metric"].startswith("fd_") and "FID" in label.upper():
        raise UserError(
            f"report.columns: {body['metric']} must not be called '{label}': FID is the distance on the 2015-12-05 "
            f"Inception features alone; call it {known.label}."
        )
    paper = body.get("paper", paper_column(body["metric"], reference))
    if paper and reference is None:
        raise UserError(
            f"report.columns: paper={paper} of {body['metric']}, but report.reference names no table to find it in; "
            "name one, or leave paper out."
        )
    if paper and reference and paper not in reference.columns:
        raise unknown("column of the reference", paper, reference.columns)
    form, scale = str(body.get("format", known.format)), body.get("scale", known.scale)
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise UserError(f"report.columns: scale={scale!r} of {body['metric']} must be a number.")
    try:
        format(1.0, form)
    except ValueError as error:
        raise UserError(f"report.columns: '{form}' is not a number format; write for example '.1f'.") from error
    return Column(body["metric"], label, better, form, scale, paper, known.description)


def _known_metric(name: Any, place: str) -> None:
    """Raise UserError unless results may hold such a quantity."""
    if name not in METRICS and not str(name).startswith(CHOSEN):
        raise unknown(f"metric in report.{place}:", str(name), METRICS)


def paper_column(metric: str, reference: ReferenceTable | None) -> str:
    """The published column of the same quantity, or of the one that this quantity stands in for."""
    names = [metric, *(name for name, others in STAND_INS.items() if metric in others)]
    return next((name for name in names if reference and name in reference.columns), "")


def _figure(item: Any, axes: Mapping[str, Sequence[str]]) -> Figure:
    Checked(item, "report.figure").keys("kind", optional=tuple(f.name for f in fields(Figure) if f.name != "kind"))
    kind = item["kind"]
    if kind not in FIGURE_NEEDS:
        raise unknown("kind of figure", str(kind), FIGURE_NEEDS)
    if missing := [key for key in FIGURE_NEEDS[kind] if not item.get(key)]:
        raise UserError(f"report.figure: kind {kind} needs {', '.join(missing)}.")
    for key in item:
        having = [other for other in FIGURE_NEEDS if key in (*FIGURE_NEEDS[other], *FIGURE_TAKES[other])]
        if kind not in having:
            raise UserError(f"report.figure: kind {kind} has no {key}; leave it out, or choose {' or '.join(having)}.")
    where = choices_of(item.get("where", {}), "report.figure: where")
    figure = Figure(**{**item, "beside": tuple(item.get("beside", ())), "where": where})
    across = (figure.x, *figure.beside) if kind in ("scatter", "pareto") else ()
    for name in (figure.y, *across):
        _known_metric(name, "figure")
    named = (figure.x if figure.kind == "lines" else "", figure.panels, figure.colour, figure.marker)
    for axis in filter(None, named):
        if axis not in axes:
            raise unknown("axis in report.figure:", axis, axes)
    _known_labels(((axis, label) for axis, labels in where.items() for label in labels), "figure", axes)
    if set(figure.log) - {"x", "y"}:
        raise UserError(f"report.figure: log='{figure.log}' must be x, y or xy.")
    if figure.kind == "lines" and "x" in figure.log:
        for label in axes[figure.x]:
            if not is_positive(label):
                raise UserError(
                    f"report.figure: log={figure.log} over {figure.x}, but its label '{label}' is no number above 0; "
                    "leave x out of log."
                )
    return figure


def _default_figures(columns: Sequence[Column]) -> tuple[Figure, ...]:
    ranked = [column.metric for column in columns if column.better != "none"]
    figures = [Figure("bars", ranked[0])] if ranked else []
    figures += [Figure("curves", "train/loss"), Figure("curves", "val/loss")]
    if ranked and any(column.metric == "seconds_per_image" for column in columns):
        figures.append(Figure("pareto", ranked[0], "seconds_per_image"))
    return tuple(figures)


def _baseline(raw: Any, axes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    result = labels_of(raw, "report.baseline")
    _known_labels(result.items(), "baseline", axes)
    return result


def _known_labels(labels: Iterable[tuple[str, str]], place: str, axes: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError unless the sweep has all of these (axis, label)."""
    for axis, label in labels:
        if axis not in axes:
            raise unknown(f"axis in report.{place}:", axis, axes)
        if label not in axes[axis]:
            raise unknown(f"label of {axis} in report.{place}:", label, axes[axis])


def _own_claim(claim: Claim, axes: Mapping[str, Sequence[str]]) -> Claim:
    """A claim that was written for this sweep: what it names must be here."""
    for name in filter(None, (claim.metric, claim.x)):
        _known_metric(name, "claims")
    best = {claim.axis: claim.label} if claim.axis else {}
    named = [
        (axis, label) for labels in (best, claim.left, claim.right, *claim.order) for axis, label in labels.items()
    ]
    named += [(axis, label) for axis, labels in claim.where.items() for label in labels]
    _known_labels(named, "claims", axes)
    return claim


def _claims(raw: Any, reference: ReferenceTable | None, axes: Mapping[str, Sequence[str]]) -> tuple[Claim, ...]:
    """Claims named from the reference table, or written out; all of the table's where the block says nothing."""
    if raw is None:
        return reference.claims if reference else ()
    result = []
    for item in raw:
        if isinstance(item, Mapping):
            result.append(_own_claim(parse_claim(item, "report.claims"), axes))
        elif "." in str(item):
            table, _, claim = item.rpartition(".")
            result.append(load_table(table).claim(claim))
        elif reference:
            result.append(reference.claim(str(item)))
        else:
            raise UserError(f"report.claims names '{item}', but report.reference names no table to find it in.")
    return tuple(result)
