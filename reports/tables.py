"""The table of a sweep: which number stands where, what is best, and what has to be said below it.

A `Table` is independent of any format; `reports.formats` prints it as Markdown, LaTeX and CSV, the page as HTML.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

from experiments.validation import is_validation
from lightning_modules.metrics.config import IS_LEAST
from reports.aggregate import NOT_FINITE, Row, Value, listed, select
from reports.comparable import set_apart
from reports.contest import AT_95, Doubt, timed_apart
from reports.layout import Column, Layout
from reports.quantities import EXACT, Quantity, is_cost
from reports.ranking import Rank, contest_axes, peers_of, rank_rows
from reports.records import named
from reports.reference import ReferenceTable

ARROWS = {"lower": "↓", "higher": "↑", "none": ""}
DASH = "–"
SPELLING = {"adaln": "adaLN", "cfg": "CFG", "ema": "EMA", "pe": "PE"}
LONGEST_REASON = 24
"""Longer reasons move into a footnote."""


@dataclass(frozen=True)
class Head:
    """The head of one column."""

    text: str
    kind: Literal["label", "measured", "paper"]
    over: str = ""
    """Label of the spread axis that this column belongs to."""
    column: Column | None = None


@dataclass(frozen=True)
class Entry:
    """One entry of the body."""

    text: str
    kind: Literal["label", "measured", "paper", "missing"]
    interval: str = ""
    """ "[low, high]" of a single training, or ""."""
    rank: Literal["", "best", "second"] = ""
    doubt: Doubt = ""
    """Of the difference from the best."""
    marks: tuple[str, ...] = ()
    """Footnotes by their letters."""
    value: Value | None = None
    published: float | None = None

    @property
    def full(self) -> str:
        """The text with the interval, on one line."""
        return f"{self.text} {self.interval}".strip()


@dataclass(frozen=True)
class TableRow:
    """One row of the body."""

    labels: Mapping[str, str]
    entries: tuple[Entry, ...]
    group: str = ""
    """The heading that it stands under."""
    baseline: bool = False
    cells: tuple[Row, ...] = ()
    """The aggregated rows behind it: one, or one for each label of the spread axis."""


@dataclass(frozen=True)
class Table:
    """A table ready to be printed."""

    title: str
    heads: tuple[Head, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[tuple[str, str], ...] = ()
    """(letter, text); the letter is "" for what concerns the whole table."""


def over_spans(heads: Iterable[Head]) -> list[tuple[str, int]]:
    """What stands over the heads, each with the number of neighbours that it spans."""
    return [(over, len(list(below))) for over, below in groupby(heads, lambda head: head.over)]


@dataclass
class Notes:
    """Footnotes, lettered in the order of their first use; the same text gets the same letter."""

    letters: dict[str, str] = field(default_factory=dict)

    def mark(self, text: str) -> str:
        """The letter of a footnote."""
        if text not in self.letters:
            n = len(self.letters)
            self.letters[text] = chr(ord("a") + n % 26) * (n // 26 + 1)
        return self.letters[text]


def build_table(
    title: str, layout: Layout, rows: Sequence[Row], flags: Mapping[int, str], notes: Iterable[str] = ()
) -> Table:
    """Lay out aggregated rows.

    Args:
        flags: what makes a row incomparable with the others, by index into `rows`.
        notes: what has to be said of the whole table.
    """
    lettered = Notes()
    spread = list(dict.fromkeys(row.labels.get(layout.spread, "") for row in rows)) if layout.spread else [""]
    body: dict[tuple[str, ...], dict[str, int]] = {}
    for index, row in enumerate(rows):
        key = tuple(row.labels.get(axis, DASH) for axis in layout.axes)
        body.setdefault(key, {})[row.labels.get(layout.spread, "")] = index
    groups = list(dict.fromkeys(key[0] for key in body)) if layout.group else [""]
    layout, unknown = _without_unknown(layout, rows)
    ranks = {
        (peers[place], column.metric): rank
        for peers in peers_of(layout, rows)
        for column in layout.columns
        for place, rank in rank_rows(peers, column).items()
    }
    result = []
    for group in groups:
        inside = [(key, places) for key, places in body.items() if not layout.group or key[0] == group]
        result += _group(layout, rows, inside, spread, flags, ranks, lettered)
    general = list(dict.fromkeys([*notes, *_reading_notes(layout, result), *unknown]))
    return Table(
        title=title,
        heads=tuple(_heads(layout, spread)),
        rows=tuple(result),
        notes=(*((letter, text) for text, letter in lettered.letters.items()), *(("", text) for text in general)),
    )


def _without_unknown(layout: Layout, rows: Sequence[Row]) -> tuple[Layout, list[str]]:
    """The layout without the published columns of which no number is known in these rows, and a note that says so."""
    table = layout.reference
    if table is None:
        return layout, []
    beside = [found for row in rows if (found := table.row_for(row.labels))]
    empty = {name for name in table.columns if all(row.values.get(name) is None for row in beside)}
    dropped = list(dict.fromkeys(table.columns[c.paper].label for c in layout.columns if c.paper in empty))
    if not dropped:
        return layout, []
    columns = tuple(replace(column, paper="") if column.paper in empty else column for column in layout.columns)
    text = f"{table.citation}, {table.where}: no {' or '.join(dropped)} of these rows is known, so none stands here."
    return replace(layout, columns=columns), [text]


def _heads(layout: Layout, spread: Sequence[str]) -> Iterable[Head]:
    for axis in layout.rows:
        yield Head(axis_title(axis), "label")
    for label in spread:
        over = f"{axis_title(layout.spread)} {label}" if label else ""
        for column in layout.columns:
            yield Head(f"{column.label} {ARROWS[column.better]}".strip(), "measured", over, column)
            if layout.reference and _is_published(layout, column, label, spread):
                yield Head(f"{layout.reference.columns[column.paper].label} (paper)", "paper", over, column)


def _is_published(layout: Layout, column: Column, label: str, spread: Sequence[str]) -> bool:
    """Whether a published column stands here: at each label of the spread axis if the paper varies it, else once."""
    varied = any(layout.spread in row.match for row in layout.reference.rows) if layout.reference else False
    return bool(column.paper) and (varied or label == spread[-1])


def axis_label(known: Quantity) -> str:
    """A quantity's name along an axis, with an arrow towards what is better."""
    return f"{known.label} {ARROWS[known.better]}".strip()


def axis_title(axis: str) -> str:
    """An axis's name as a heading."""
    words = [SPELLING.get(word, word) for word in axis.split("_")]
    return " ".join([words[0] if words[0] in SPELLING.values() else words[0].capitalize(), *words[1:]])


def _group(
    layout: Layout,
    rows: Sequence[Row],
    inside: Sequence[tuple[tuple[str, ...], Mapping[str, int]]],
    spread: Sequence[str],
    flags: Mapping[int, str],
    ranks: Mapping[tuple[Row, str], Rank],
    notes: Notes,
) -> list[TableRow]:
    """The rows under one group heading; `ranks` by row and metric."""
    result = []
    for key, places in inside:
        labels = dict(zip(layout.axes, key, strict=True))
        marks = dict.fromkeys(notes.mark(flags[index]) for index in places.values() if index in flags)
        entries = [Entry(labels[axis], "label") for axis in layout.rows]
        entries[-1] = replace(entries[-1], marks=tuple(marks))
        for label in spread:
            index = places.get(label)
            for column in layout.columns:
                entry = _entry(rows[index] if index is not None else None, column, notes)
                if index is not None and (rank := ranks.get((rows[index], column.metric))):
                    entry = replace(entry, rank=rank.place, doubt=rank.doubt)
                entries.append(entry)
                if layout.reference and _is_published(layout, column, label, spread):
                    entries.append(_published(layout.reference, labels, {layout.spread: label}, column))
        cells = tuple(rows[index] for index in places.values())
        baseline = bool(layout.baseline) and bool(select(cells, layout.baseline))
        heading = named(layout.group, labels[layout.group]) if layout.group else ""
        result.append(TableRow(labels, tuple(entries), heading, baseline, cells))
    return result


def _entry(row: Row | None, column: Column, notes: Notes) -> Entry:
    if row is None:
        return Entry(DASH, "missing", marks=(notes.mark("not part of this sweep"),))
    value = row.value(column.metric)
    if value.mean is None and row.measured and NOT_FINITE not in value.reasons:
        return Entry(DASH, "missing", value=value)
    if value.mean is None:
        short = textwrap.shorten(value.note, LONGEST_REASON, placeholder=" …")
        return Entry(short, "missing", marks=() if short == value.note else (notes.mark(value.note),), value=value)
    exact = column.metric in EXACT  # which no seed changes
    spread, note = (None, "") if exact else (value.std, value.note)
    text = column.text(value.mean) if spread is None else column.spread(value.mean, spread)
    interval = ""
    if value.interval and column.better != "none":
        interval = f"[{', '.join(column.text(end) for end in value.interval)}]"
    if note:
        text += f" ({note})"
    marks = (notes.mark(f"the other seeds: {'; '.join(value.reasons)}"),) if note else ()
    return Entry(text, "measured", interval, marks=marks, value=value)


def _published(table: ReferenceTable, labels: Mapping[str, str], spread: Mapping[str, str], column: Column) -> Entry:
    row = table.row_for({**labels, **spread})
    value = row.values[column.paper] if row else None
    if row is None or value is None:
        return Entry(DASH, "paper")
    printed = f"{value * table.columns[column.paper].scale:g}"
    return Entry(f"{'≈ ' if column.paper in row.approximate else ''}{printed}", "paper", published=value)


def _scores_few(cell: Row, shown: Iterable[str]) -> bool:
    """Whether the Inception score of a row has no interval, as others of the shown metrics have, for want of images."""
    few = any(record.protocol.get("num_samples", IS_LEAST) < IS_LEAST for record in cell.measured)
    score = cell.value("is")
    return few and score.n == 1 and not score.interval and any(cell.value(metric).interval for metric in shown)


def _reading_notes(layout: Layout, rows: Sequence[TableRow]) -> Iterable[str]:
    """How to read the marks that this table uses."""
    entries = [entry for row in rows for entry in row.entries]
    cells = [cell for row in rows for cell in row.cells]
    ranked = [column for column in layout.columns if column.better != "none"]
    if any(entry.rank for entry in entries):
        apart = any(set_apart(cell, column.metric) for cell in cells for column in ranked)
        unknown = "noise unknown or not comparable" if apart else "noise unknown"
        read = {
            "=": f"; = not distinguishable from the best {AT_95}",
            "?": f"; ? {unknown}, so no difference from the best is claimed",
        }
        doubts = "".join(text for mark, text in read.items() if any(entry.doubt == mark for entry in entries))
        alike = [axis_title(axis).lower() for axis in contest_axes(layout, cells)]
        within = f" at equal {' and '.join(alike)}" if alike else " within a group" if layout.group else ""
        yield f"Bold is best, underlined second{within}{doubts}."
    if any(timed_apart(cells, column.metric) for column in ranked):
        yield "Times of separate runs are not ranked: other work may have run beside them."
    tasks = dict.fromkeys(fact for cell in cells for fact in cell.task)
    if tasks and (validated := [column.plain for column in ranked if is_validation(column.metric)]):
        yield (
            f"{' and '.join(validated)}: only rows with the same {' and '.join(tasks)} are compared, as others are "
            "validated on another task."
        )
    counts = sorted({entry.value.n for entry in entries if entry.value and entry.value.n > 1})
    if counts:
        seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        yield f"Mean ± standard deviation over {seeds} seeds."
    shown = [column.metric for column in layout.columns if not is_cost(column.metric)]
    if single := [cell for cell in cells if any(cell.value(metric).n == 1 for metric in shown)]:
        which = f"of {listed(single, cells)}" if counts else "a row"
        yield f"One training {which}: the spread over training seeds is not known."
    if any(entry.interval for entry in entries):
        timed = any(record.benchmark for line in rows for row in line.cells for record in row.measured)
        what = (
            "interval of the median over repetitions" if timed else "bootstrap interval over samples of that training"
        )
        yield f"[low, high]: 95% {what}."
    if "is" in shown and (few := [cell for cell in cells if _scores_few(cell, shown)]):
        which = "" if len(few) == len(cells) else f" of {listed(few, cells)}"
        yield f"IS{which} without an interval: of fewer than {IS_LEAST} images none that was tried covers it."
    if any(entry.text == DASH and entry.value for entry in entries):
        yield f"{DASH} not measured."
    if layout.reference and any(column.paper for column in layout.columns):
        table = layout.reference
        protocol = f"; {table.protocol}" if table.protocol else ""
        yield (
            f"(paper): {table.citation}, {table.where}{protocol}. Other data, sizes and features: compare the order of "
            f"the rows, not the numbers. {DASH} in such a column: not known."
        )
