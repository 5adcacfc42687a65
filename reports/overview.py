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
from reports.page import environment, stylesheet
from reports.subject import Subject, load_subject
from reports.uncertainty import compare
from sweeps.registry import begun


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
        """(quantity, row, number) of the best row in every ranked column that compares two rows at least."""
        result = []
        for column in self.subject.layout.columns:
            rows = [row for row in self.subject.rows if row.value(column.metric).n]
            if column.better == "none" or len(rows) < 2:
                continue
            sign = -1 if column.better == "higher" else 1
            winner = min(rows, key=lambda row: sign * (row.value(column.metric).mean or 0.0))
            name, number = row_name(winner, self.subject.rows), column.text(winner.value(column.metric).mean or 0.0)
            others = [row for row in rows if row is not winner and self._tied(row, winner, column.metric)]
            also = f" (not distinguishable: {len(others)} more)" if others else ""
            result.append((column.label, f"{name}{also}", number))
        return result

    @staticmethod
    def _tied(row: Row, winner: Row, metric: str) -> bool:
        found = compare(row, winner, metric)
        return found is not None and found.distinguishable is False

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


def find_subjects(root: Path) -> tuple[list[Subject], list[str]]:
    """The subjects of all sweeps that were begun under a root, and why others cannot be read any more."""
    subjects, lost = [], []
    for record in begun(root):
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


def render_overview(entries: Sequence[Entry], lost: Sequence[str], folder: Path) -> str:
    """The page as HTML text; links are relative to `folder`."""
    papers: dict[str, list[tuple[Entry, str]]] = {}
    for entry in entries:
        link = os.path.relpath(entry.folder / "index.html", folder).replace(os.sep, "/")
        papers.setdefault(_paper(entry.subject), []).append((entry, link))
    judgements = [verdict.judgement for entry in entries for verdict in entry.verdicts]
    counts = [(word, judgements.count(word)) for word in ("supported", "contradicted", "undecided", "not measured")]
    return (
        environment()
        .get_template("overview.html")
        .render(
            css=stylesheet(),
            papers=papers,
            lost=lost,
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
    return reference.citation if reference else subject.citation.rpartition(", ")[0] or "Without a paper"


def _is_lasting(word: str) -> bool:
    """Whether a word of the last request concerns all of the sweep: not one that picks some of its rows."""
    key = word.partition("=")[0]
    return "." in key or key == "seeds"
