"""Best and second best of a column, and which others cannot be told from the best, or from the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from reports.aggregate import LISTED, Row, in_words, row_names, select
from reports.contest import AT_95, Contest, Doubt, timed_apart
from reports.layout import Column, Layout
from reports.one_factor import baseline_of
from reports.records import is_number


@dataclass(frozen=True)
class Rank:
    """The place of one row in one column."""

    place: Literal["", "best", "second"] = ""
    doubt: Doubt = ""
    """Of its difference from the best, as one of all differences in its column."""
    comparable: bool = True
    """Else it was measured in another way than the others and has no place."""


def contest_axes(layout: Layout, rows: Iterable[Row]) -> list[str]:
    """Axes of numbers that all rows have and the baseline does not fix, such as a resolution: rows at others are not
    ranked together."""
    rows = list(rows)
    free = [axis for axis in layout.rows if layout.baseline and axis not in layout.baseline]
    return [axis for axis in free if all(is_number(row.labels.get(axis, "")) for row in rows)]


def peers_of(layout: Layout, rows: Sequence[Row]) -> list[list[Row]]:
    """The rows that are ranked together: of one group, at one label of the spread axis, at equal `contest_axes`."""
    apart = [layout.group, layout.spread, *contest_axes(layout, rows)]
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.labels.get(axis, "") for axis in apart), []).append(row)
    return list(found.values())


def tie_notes(layout: Layout, rows: Sequence[Row]) -> list[str]:
    """Rows whose numbers cannot be told from the baseline's, judged among the rows that the table ranks together, or
    among all where the baseline is not one of these; [] without any."""
    peers, bases, found = peers_of(layout, rows), select(rows, layout.baseline), []
    for column in layout.columns if layout.baseline else ():
        if column.better == "none" or timed_apart(rows, column.metric):
            continue
        everyone = Contest(rows, column.metric)
        doubts = {}
        for contest, inside in ((Contest(inside, column.metric), inside) for inside in peers):
            for row in inside:
                base = baseline_of(row, bases, layout.baseline)
                judged = contest if base in inside else everyone
                if base is not None and base is not row and row in judged.rows and base in judged.rows:
                    doubts[row] = judged.doubt(row, base)
        ties = [row for row in rows if doubts.get(row) == "="]
        many = f"{len(ties)} of {len(doubts)} rows"
        listed = ", ".join(row_names(rows, ties).values()) if len(ties) <= LISTED else many
        found += [f"{column.plain} of {listed}"] if ties else []
    name = in_words({axis: [label] for axis, label in layout.baseline.items()})
    return [f"Not distinguishable from the baseline, {name}, {AT_95}: {'; '.join(found)}."] if found else []


def rank_rows(rows: Sequence[Row], column: Column) -> dict[int, Rank]:
    """Rank the measured rows of one column, by their index.

    Empty with fewer than two that are comparable, where nothing is better, or where the times of separate runs would be
    compared.
    """
    contest = Contest(rows, column.metric)
    if column.better == "none" or len(contest.rows) < 2 or contest.timed_apart:
        return {}
    means = {row: row.value(column.metric).mean or 0.0 for row in contest.rows}
    ranked = sorted(contest.rows, key=means.__getitem__, reverse=column.better == "higher")
    best, values = ranked[0], list(dict.fromkeys(means[row] for row in ranked))
    result = {}
    for index, row in enumerate(rows):
        if row in contest.left_out:
            result[index] = Rank(doubt="?", comparable=False)
        elif row in means:
            place: Literal["", "best", "second"] = (
                "best" if means[row] == values[0] else "second" if means[row] == values[1] and len(ranked) > 2 else ""
            )
            result[index] = Rank(place, "" if row is best else contest.doubt(row, best))
    return result
