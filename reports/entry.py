"""What a page over several sweeps says of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reports.aggregate import LISTED, Row, row_name
from reports.layout import Column
from reports.ranking import contest_axes, rank_rows
from reports.subject import Subject

NO_PAPER = "Without a paper"
TAU = (
    "τ (Kendall's) holds the order that a claim or a paper states against that of the measured means: +1 is the same "
    "order, -1 the reverse. It leaves noise out: a claim with τ = +1 stays undecided where the differences behind its "
    "order are within the noise."
)


@dataclass(frozen=True)
class Entry:
    """What the page says of one sweep: plain data, so that a published sweep keeps it in its provenance.json."""

    slug: str
    """Of its report's folder, beside the page."""
    sweep: str
    scale: str
    words: list[str]
    title: str
    reproduces: str
    paper: str
    """The heading that it stands under."""
    command: str
    states: dict[str, int]
    """Number of cells by state."""
    done: int
    """Cells with a measurement."""
    rows: int
    seeds: int
    flags: int
    """Rows that the guard finds not comparable."""
    best: list[dict[str, str]]
    """quantity, row and number of the best row in every ranked column that compares two rows at least."""
    claims: list[dict[str, Any]]
    """The judged claims without their evidence, those that were measured first."""
    agreements: list[str]

    @property
    def cells(self) -> int:
        """How many there are, done or not."""
        return sum(self.states.values())


def entry_of(subject: Subject) -> Entry:
    """What the page says of a sweep now."""
    verdicts = sorted(subject.verdicts, key=lambda verdict: verdict.judgement == "not measured")
    return Entry(
        slug=subject.slug,
        sweep=subject.name,
        scale=subject.scale,
        words=list(subject.words),
        title=subject.title,
        reproduces=subject.reproduces,
        paper=_paper(subject),
        command=subject.command,
        states=subject.counts(),
        done=sum(not record.reason for record in subject.records),
        rows=len({tuple(record.labels.items()) for record in subject.records}),
        seeds=len({record.seed for record in subject.records}),
        flags=len(subject.flags),
        best=_best(subject),
        claims=[{key: value for key, value in v.as_json().items() if key != "evidence"} for v in verdicts],
        agreements=list(subject.agreements),
    )


def _best(subject: Subject) -> list[dict[str, str]]:
    """The best row of every ranked column. Where the table ranks rows apart (groups, spread columns, resolutions), the
    best within each, of the first ranked column alone."""
    layout, rows = subject.layout, subject.rows
    apart = [axis for axis in (layout.group, layout.spread, *contest_axes(layout, rows)) if axis]
    contests: dict[str, list[Row]] = {}
    for row in rows:
        contests.setdefault(", ".join(f"{axis} {row.labels.get(axis, '-')}" for axis in apart), []).append(row)
    ranked = [column for column in layout.columns if column.better != "none"]
    result = []
    for context, inside in contests.items():
        for column in ranked[:1] if apart else ranked:
            if found := _winner(inside, column):
                label = f"{column.label} at {context}" if context else column.label
                result.append({"quantity": label, "row": found[0], "number": found[1]})
    return result


def _winner(rows: Sequence[Row], column: Column) -> tuple[str, str] | None:
    """The best row of a column by name, all of them where several are equal, and its number; None without two rows."""
    ranks = rank_rows(rows, column)
    best = [rows[index] for index, rank in ranks.items() if rank.place == "best"]
    if not best:
        return None
    names = " and ".join(row_name(row, rows) for row in best) if len(best) <= LISTED else f"{len(best)} rows"
    others = [rank for rank in ranks.values() if rank.place != "best"]
    counts = {
        "not distinguishable": sum(rank.doubt == "=" for rank in others),
        "noise unknown": sum(rank.doubt == "?" and rank.comparable for rank in others),
        "not comparable": sum(not rank.comparable for rank in others),
    }
    also = [f"{text}: {count} more" for text, count in counts.items() if count]
    number = column.text(best[0].value(column.metric).mean or 0.0)
    return f"{names} ({', '.join(also)})" if also else names, number


def by_paper(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The entries under the heading of their paper; those without one come last."""
    papers: dict[str, list[Entry]] = {}
    for entry in entries:
        papers.setdefault(entry.paper, []).append(entry)
    return dict(sorted(papers.items(), key=lambda item: item[0] == NO_PAPER))


def _paper(subject: Subject) -> str:
    """The heading that a sweep stands under: its paper, without the table."""
    reference = subject.layout.reference
    return reference.citation if reference else subject.citation or NO_PAPER
