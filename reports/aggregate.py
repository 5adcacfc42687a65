"""Seeds brought together: mean, standard deviation and n of every quantity, and what is missing from them.

No average is taken over anything but seeds, and a row that lacks some of its seeds says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lightning_modules.metrics.shares import NORMAL_95, SHARES, share_interval
from reports.quantities import quantity
from reports.records import Record, named

NOT_FINITE = "not finite"
LISTED = 4
"""So many rows are named in a sentence; of more, their number is given."""
SHOWN = 40
"""So many rows have a bar, a curve or samples of their own; of more, the best."""


@dataclass(frozen=True)
class Value:
    """One quantity of one row, over its seeds."""

    metric: str
    samples: tuple[float, ...]
    seeds: tuple[int, ...]
    expected: int
    """Seeds that were planned."""
    reasons: tuple[str, ...] = ()
    """Why the others are missing, each reason once."""
    errors: tuple[float | None, ...] = ()
    """Standard error of each sample as its evaluation reports it (bootstrap, subsets); None = not reported."""
    error_source: str = ""
    """Where `errors` come from, in words."""
    interval: tuple[float, float] | None = None
    """Of a single training, the 95 % interval over its samples that the evaluation reports."""

    @property
    def n(self) -> int:
        """Seeds measured."""
        return len(self.samples)

    @property
    def mean(self) -> float | None:
        """Mean over the seeds measured; None without any."""
        return statistics.fmean(self.samples) if self.samples else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds (n - 1); None with fewer than two."""
        return statistics.stdev(self.samples) if self.n > 1 else None

    @property
    def reach(self) -> tuple[float, float]:
        """Of an error bar, below and above the mean: the standard deviation over seeds, else the interval that the
        evaluation reports, else 1.96 of its standard errors, else 0."""
        if self.std is not None:
            return self.std, self.std
        if self.interval and self.mean is not None:
            return max(0.0, self.mean - self.interval[0]), max(0.0, self.interval[1] - self.mean)
        error = NORMAL_95 * self.errors[0] if self.errors and self.errors[0] is not None else 0.0
        return error, error

    @property
    def note(self) -> str:
        """What a reader must know of a missing or partial value; "" when it is complete."""
        if not self.n:
            return "; ".join(self.reasons) or "not measured"
        return f"n={self.n}/{self.expected} seeds" if self.n < self.expected else ""


@dataclass(frozen=True, eq=False)
class Row:
    """All records that share their labels: the seeds of one configuration."""

    labels: Mapping[str, str]
    records: tuple[Record, ...]
    flags: Mapping[str, str] = field(default_factory=dict)
    """Facts in which its measurements stand apart from the other rows' (`reports.guard`), each in words."""
    task: Mapping[str, str] = field(default_factory=dict)
    """Facts that the sweep varies on purpose and in which what is validated stands apart, in words."""

    @cached_property
    def measured(self) -> tuple[Record, ...]:
        """The records that hold a measurement."""
        return tuple(record for record in self.records if not record.reason)

    def value(self, metric: str) -> Value:
        """One quantity over the seeds of this row."""
        have = [record for record in self.measured if metric in record.metrics]
        reasons = [record.reason for record in self.records if record.reason]
        lacking = [record for record in self.measured if metric not in record.metrics]
        reasons += [NOT_FINITE if metric in record.not_finite else "not measured" for record in lacking]
        errors = [standard_error(record, metric) for record in have]
        return Value(
            metric=metric,
            samples=tuple(record.metrics[metric] for record in have),
            seeds=tuple(record.seed for record in have),
            expected=len(self.records),
            reasons=tuple(dict.fromkeys(reasons)),
            errors=tuple(error for error, _ in errors),
            error_source=errors[0][1] if errors else "",
            interval=bootstrap_interval(have[0], metric) if len(have) == 1 else None,
        )


def rows_of(records: Iterable[Record]) -> list[Row]:
    """Records grouped by their labels, in the order in which the sweep declares them."""
    groups: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record.labels.items()), []).append(record)
    return [Row(dict(labels), tuple(items)) for labels, items in groups.items()]


def standard_error(record: Record, metric: str) -> tuple[float | None, str]:
    """The noise that an evaluation reports of one number, as a standard error, and where it comes from.

    That of the bootstrap replicates where they are kept (of a share, by the longer side of Wilson's interval); else a
    bootstrap interval (`<metric>_low` and `<metric>_high`, 95%) counts as 1.96 standard errors either way; else
    `<metric>_std`, the spread over subsets or splits, is taken as it is, which is on the cautious side. Of a benchmark,
    the interval is that of its repetitions.
    """
    if len(record.replicates(metric)) > 1:
        return max(reaches(record, metric)) / NORMAL_95, "bootstrap interval"
    if ends := bootstrap_interval(record, metric):
        return (ends[1] - ends[0]) / (2 * NORMAL_95), "repetitions" if record.benchmark else "bootstrap interval"
    if (spread := record.metrics.get(f"{metric}_std")) is not None:
        return spread, "spread over subsets"
    return None, ""


def reaches(record: Record, metric: str) -> tuple[float, float]:
    """How far the 95% interval reaches below and above a number that has two or more bootstrap replicates."""
    deviations = record.replicates(metric)
    spread = math.sqrt(sum(d * d for d in deviations) / (len(deviations) - 1))
    if metric not in SHARES:
        return NORMAL_95 * spread, NORMAL_95 * spread
    share = record.metrics[metric]
    low, high = share_interval(share, spread, record.protocol["num_samples"])
    return share - low, high - share


def bootstrap_interval(record: Record, metric: str) -> tuple[float, float] | None:
    """`<metric>_low` and `<metric>_high`, 95%; None where the evaluation reports none."""
    low, high = (record.metrics.get(f"{metric}_{end}") for end in ("low", "high"))
    return None if low is None or high is None else (low, high)


def select(rows: Sequence[Row], labels: Mapping[str, str]) -> list[Row]:
    """The rows that carry all of these labels."""
    return [row for row in rows if all(row.labels.get(axis) == label for axis, label in labels.items())]


def among(rows: Sequence[Row], where: Mapping[str, Sequence[str]]) -> list[Row]:
    """The rows that carry one of these labels on each of these axes."""
    return [row for row in rows if all(row.labels.get(axis) in labels for axis, labels in where.items())]


def in_words(where: Mapping[str, Sequence[str]]) -> str:
    """Labels that rows are chosen by, in a sentence."""
    return ", ".join(" or ".join(named(axis, label) for label in labels) for axis, labels in where.items())


def varied_axes(row: Row, rows: Sequence[Row]) -> list[str]:
    """A row's axes that tell the rows apart."""
    return [axis for axis in row.labels if len({other.labels.get(axis) for other in rows}) > 1]


def foremost(rows: Sequence[Row], metric: str) -> list[Row]:
    """The rows in their order; of more than `SHOWN`, so many with the best means of a quantity, else the first."""
    known = quantity(metric)
    means = {row: row.value(metric).mean for row in rows} if len(rows) > SHOWN else {}
    sign = -1.0 if known.better == "higher" else 1.0
    ranked = sorted(rows, key=lambda row: math.inf if (mean := means.get(row)) is None else sign * mean)
    chosen = set(ranked[:SHOWN])
    return [row for row in rows if row in chosen]


def in_part(rows: Sequence[Row], metric: str, what: str = "rows") -> str:
    """A sentence about what `foremost` leaves out; "" where it leaves nothing out."""
    if len(rows) <= SHOWN:
        return ""
    which = f"best by {quantity(metric).plain}" if any(row.value(metric).n for row in rows) else "first"
    return f"Of {len(rows):,} {what} the {SHOWN} {which} are shown; the table has all."


def row_name(row: Row, rows: Sequence[Row]) -> str:
    """A row's labels on the axes that tell the rows apart."""
    return row_names(rows, [row])[row]


def row_names(rows: Sequence[Row], wanted: Sequence[Row] | None = None) -> dict[Row, str]:
    """The names of all rows, or of those that are wanted, each by its labels on the axes that tell the rows apart."""
    wanted = rows if wanted is None else wanted
    several = {axis for axis in _axes(wanted) if len({other.labels.get(axis) for other in rows}) > 1}
    varied = {row: [axis for axis in row.labels if axis in several] for row in wanted}
    return {row: " · ".join(named(axis, row.labels[axis]) for axis in varied[row] or row.labels) for row in wanted}


def _axes(rows: Iterable[Row]) -> dict[str, None]:
    """The axes that any of the rows has."""
    return dict.fromkeys(axis for row in rows for axis in row.labels)


def listed(named: Sequence[Row], rows: Sequence[Row]) -> str:
    """Some of the rows by name, or how many there are."""
    return ", ".join(row_names(rows, named).values()) if len(named) <= LISTED else f"{len(named)} rows"


def trainings(rows: Sequence[Row]) -> list[Row]:
    """One row for each set of trainings: rows that differ in sampling alone become one.

    It has the labels that they share; where they hold some labels of an axis and not all, those together ("a + b").
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(record.run_id for record in row.records), []).append(row)
    everything = {axis: {row.labels.get(axis) for row in rows} for axis in _axes(rows)}
    result = []
    for members in groups.values():
        axes = [axis for axis in members[0].labels if all(axis in row.labels for row in members)]
        labels = {axis: list(dict.fromkeys(row.labels[axis] for row in members)) for axis in axes}
        kept = {a: " + ".join(own) for a, own in labels.items() if len(own) == 1 or len(own) < len(everything[a])}
        result.append(Row(kept, members[0].records))
    return result


def shared_labels(rows: Sequence[Row]) -> dict[str, str]:
    """The labels that all of these rows carry."""
    return {a: label for a, label in rows[0].labels.items() if all(row.labels.get(a) == label for row in rows)}
