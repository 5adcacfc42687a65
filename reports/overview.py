"""One page for all sweeps of a root: how far each is, what it says of the papers' claims, the way to its own page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import atomic_write_text
from reports.aggregate import Row, row_name
from reports.build import build
from reports.claims import Verdict
from reports.layout import Column
from reports.page import environment, stylesheet
from reports.ranking import contest_axes, rank_rows
from reports.subject import Subject, load_subject
from sweeps.registry import begun

NO_PAPER = "Without a paper"


@dataclass(frozen=True)
class Entry:
    """One sweep on the page."""

    subject: Subject
    folder: Path
    """Of its own report."""

    @property
    def done(self) -> int:
        """Cells with a measurement."""
        return sum(not record.reason for record in self.subject.records)

    @property
    def verdicts(self) -> list[Verdict]:
        """The judged claims, those that were measured first."""
        return sorted(self.subject.verdicts, key=lambda verdict: verdict.judgement == "not measured")

    @property
    def best(self) -> list[tuple[str, str, str]]:
        """(quantity, row, number) of the best row in every ranked column that compares two rows at least.

        Where the table ranks rows apart (groups, spread columns, resolutions), the best within each, of the first
        ranked column alone.
        """
        layout, rows = self.subject.layout, self.subject.rows
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
                    result.append((label, *found))
        return result

    def as_json(self) -> dict[str, Any]:
        """What `ablate report --all --json` prints of it."""
        return {
            "sweep": self.subject.name,
            "scale": self.subject.scale,
            "folder": str(self.folder),
            "done": self.done,
            "cells": len(self.subject.records),
            "best": [{"quantity": q, "row": row, "number": number} for q, row, number in self.best],
            "claims": [{"id": v.claim.id, "judgement": v.judgement, "tau": v.tau} for v in self.verdicts],
            "flags": len(self.subject.flags),
        }


def _winner(rows: Sequence[Row], column: Column) -> tuple[str, str] | None:
    """The best row of a column by name, and its number; None where fewer than two are measured."""
    ranks = rank_rows(list(enumerate(rows)), column)
    places = [index for index, rank in ranks.items() if rank.place == "best"]
    if not places:
        return None
    winner = rows[places[0]]
    ties = sum(rank.tied for rank in ranks.values())
    also = f" (not distinguishable: {ties} more)" if ties else ""
    return f"{row_name(winner, rows)}{also}", column.text(winner.value(column.metric).mean or 0.0)


def find_subjects(root: Path) -> tuple[list[Subject], list[str]]:
    """The subjects of all sweeps that were begun under a root, and why others cannot be read any more."""
    subjects: list[Subject] = []
    lost: list[str] = []
    for record in begun(root, lost):
        words = [word for word in record.get("words", ()) if _is_lasting(word)]
        try:
            subjects.append(load_subject(record["sweep"], record["scale"], words, root))
        except UserError as error:
            lost.append(f"{record['folder'].name}: {error}")
    return subjects, lost


def build_overview(root: Path, out: Path | None = None) -> tuple[Path, list[Entry]]:
    """Bring the report of every begun sweep up to date, and write index.html over all of them.

    Args:
        out: folder of the page and of the sweeps' reports; by default reports/ under the root.

    Returns:
        The path of the page, and what it shows.

    Raises:
        UserError: no sweep was begun under the root, or `out` cannot be written.
    """
    from reports.commands import is_current

    folder = out or root / "reports"
    subjects, lost = find_subjects(root)
    if not subjects and not lost:
        raise UserError(f"No sweep was begun in {root}; start one with: ablate run NAME (ablate list names them).")
    entries = [Entry(subject, folder / subject.slug) for subject in subjects]
    for entry in entries:
        if not is_current(entry.subject, entry.folder / "index.html"):
            build(entry.subject, entry.folder)
    page = folder / "index.html"
    atomic_write_text(page, render_overview(entries, lost, folder))
    return page, entries


def by_paper(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The entries under the heading of their paper; those without one come last."""
    papers: dict[str, list[Entry]] = {}
    for entry in entries:
        papers.setdefault(_paper(entry.subject), []).append(entry)
    return dict(sorted(papers.items(), key=lambda item: item[0] == NO_PAPER))


def render_overview(
    entries: Sequence[Entry], lost: Sequence[str], folder: Path, command: str = "ablate report --all"
) -> str:
    """The page as HTML text; links are relative to `folder`."""

    def link(entry: Entry) -> str:
        return os.path.relpath(entry.folder / "index.html", folder).replace(os.sep, "/")

    judgements = [verdict.judgement for entry in entries for verdict in entry.verdicts]
    counts = [(word, judgements.count(word)) for word in ("supported", "contradicted", "undecided", "not measured")]
    return (
        environment()
        .get_template("overview.html")
        .render(
            css=stylesheet(),
            papers={paper: [(entry, link(entry)) for entry in group] for paper, group in by_paper(entries).items()},
            lost=lost,
            command=command,
            facts=[
                ("sweeps", str(len(entries))),
                ("cells", f"{sum(e.done for e in entries)} of {sum(len(e.subject.records) for e in entries)} done"),
                *((f"claims {word}", str(count)) for word, count in counts if count),
            ],
        )
    )


def _paper(subject: Subject) -> str:
    """The heading that a sweep stands under: its paper, without the table."""
    reference = subject.layout.reference
    return reference.citation if reference else subject.citation.rpartition(", ")[0] or NO_PAPER


def _is_lasting(word: str) -> bool:
    """Whether a word of the last request concerns all of the sweep: not one that picks some of its rows."""
    key = word.partition("=")[0]
    return "." in key or key == "seeds"
