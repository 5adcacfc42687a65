"""Best and second best of a column, and which others cannot be told from the best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from reports.aggregate import Row
from reports.layout import Column, Layout
from reports.quantities import EXACT, is_time
from reports.records import named
from reports.simultaneous import AllPairs
from reports.uncertainty import compare

AT_95 = "at 95%, all rows ranked together"
"""How sure a difference is that a table does not take for noise: one of all pairs, since the best row is chosen by the
same numbers."""
TIMED_APART = "times of separate runs, beside which other work may have run, decide nothing"


Doubt = Literal["", "=", "?"]
"""Of a difference: "" it is more than noise, "=" it cannot be told from noise, "?" nothing is known of the noise."""


@dataclass(frozen=True)
class Rank:
    """The place of one row in one column."""

    place: Literal["", "best", "second"] = ""
    doubt: Doubt = ""
    """Of its difference from the best, as one of all differences in its column."""


def contest_axes(layout: Layout, rows: Iterable[Row]) -> list[str]:
    """Axes of numbers that the baseline does not fix, such as a resolution: rows at others are not ranked together."""
    rows = list(rows)
    free = [axis for axis in layout.rows if layout.baseline and axis not in layout.baseline]
    return [axis for axis in free if all(named(axis, row.labels[axis]) != row.labels[axis] for row in rows)]


def timed_apart(rows: Iterable[Row], metric: str) -> bool:
    """Whether a quantity is the wall time of separate runs, beside which other work may have run or not."""
    return is_time(metric) and any(record.benchmark is None for row in rows for record in row.measured)


def doubts(rows: Sequence[Row], base: Row, metric: str, peers: Sequence[Row]) -> list[Doubt]:
    """What is in doubt of the difference of each row from the base, as one of all pairs of peers.

    Rows of several seeds are judged by `AllPairs`, the others by their own noise (Bonferroni).

    Args:
        peers: all rows that are compared, these and the base among them.
    """
    several = [] if metric in EXACT else [row for row in peers if row.value(metric).n > 1]
    places = {id(row): place for place, row in enumerate(several)}
    pairs = AllPairs([row.value(metric) for row in several], len(peers)) if len(several) > 1 else None

    def doubt(row: Row) -> Doubt:
        if pairs and id(row) in places and id(base) in places:
            return "" if pairs.apart(places[id(row)], places[id(base)]) else "="
        found = compare(row, base, metric)
        if found is None or found.distinguishable is None:
            return "?"
        return "" if found.stands_among(math.comb(len(peers), 2)) else "="

    return [doubt(row) for row in rows]


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
    others = [row for _, row, _ in measured[1:]]
    found: list[Doubt] = ["", *doubts(others, best[1], column.metric, [best[1], *others])]
    result = {}
    for (index, _, mean), doubt in zip(measured, found, strict=True):
        place: Literal["", "best", "second"] = (
            "best" if mean == values[0] else "second" if mean == values[1] and len(measured) > 2 else ""
        )
        result[index] = Rank(place, doubt)
    return result
