"""Best and second best of a column, and which others cannot be told from the best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from reports.aggregate import Row
from reports.layout import Column, Layout
from reports.quantities import is_time
from reports.records import named
from reports.uncertainty import compare, margin_over_seeds

AT_95 = "at 95%, all rows of a column together"
"""How sure a difference is that a table does not take for noise: Bonferroni, since the best one is chosen by the same
numbers."""
TIMED_APART = "times of separate runs, beside which other work may have run, decide nothing"


@dataclass(frozen=True)
class Rank:
    """The place of one row in one column."""

    place: Literal["", "best", "second"] = ""
    tied: bool = False
    """The difference to the best is within the noise, as one of all differences to it in its column."""


def contest_axes(layout: Layout, rows: Iterable[Row]) -> list[str]:
    """Axes of numbers that the baseline does not fix, such as a resolution: rows at others are not ranked together."""
    rows = list(rows)
    free = [axis for axis in layout.rows if layout.baseline and axis not in layout.baseline]
    return [axis for axis in free if all(named(axis, row.labels[axis]) != row.labels[axis] for row in rows)]


def timed_apart(rows: Iterable[Row], metric: str) -> bool:
    """Whether a quantity is the wall time of separate runs, beside which other work may have run or not."""
    return is_time(metric) and any(record.benchmark is None for row in rows for record in row.measured)


def alike(rows: Sequence[Row], base: Row, metric: str, comparisons: int, noise: Sequence[Row] = ()) -> list[Row]:
    """The rows that cannot be told from the base as one of so many comparisons: with the same seeds by the noise that
    they share, else each by its own.

    Args:
        noise: the rows that it is taken from; by default these and the base.
    """
    if (margin := margin_over_seeds(noise or [base, *rows], metric, comparisons)) is not None:
        middle = base.value(metric).mean or 0.0
        return [row for row in rows if abs((row.value(metric).mean or 0.0) - middle) <= margin]
    found = [(row, compare(row, base, metric)) for row in rows]
    judged = [(row, item) for row, item in found if item is not None and item.distinguishable is not None]
    return [row for row, item in judged if not item.stands_among(comparisons)]


def rank_rows(peers: Sequence[tuple[int, Row]], column: Column) -> dict[int, Rank]:
    """Rank the measured rows of one column, by their index.

    Empty with fewer than two, where nothing is better, or where the times of separate runs would be compared.
    """
    means = [(index, row, row.value(column.metric).mean) for index, row in peers]
    measured = [(index, row, mean) for index, row, mean in means if mean is not None]
    if column.better == "none" or len(measured) < 2 or timed_apart((row for _, row in peers), column.metric):
        return {}
    measured.sort(key=lambda item: item[2], reverse=column.better == "higher")
    best = measured[0]
    values = list(dict.fromkeys(mean for _, _, mean in measured))
    ties = alike([row for _, row, _ in measured[1:]], best[1], column.metric, len(measured) - 1)
    result = {}
    for index, row, mean in measured:
        tied = any(row is other for other in ties)
        place: Literal["", "best", "second"] = (
            "best" if mean == values[0] else "second" if mean == values[1] and len(measured) > 2 else ""
        )
        result[index] = Rank(place, tied)
    return result
