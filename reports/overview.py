"""One page for all sweeps of a root: how far each is, what it says of the papers' claims, the way to its own page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.errors import UserError
from experiments.files import atomic_write_text
from reports.build import build
from reports.entry import TAU, Entry, by_paper, entry_of
from reports.page import environment, stylesheet
from reports.provenance import is_current
from reports.subject import Subject, load_subject
from sweeps.definition import sweep_names
from sweeps.registry import begun, definition_of


def find_subjects(root: Path) -> tuple[list[Subject], list[str]]:
    """The subjects of all sweeps that were begun under a root, and why others cannot be read any more."""
    subjects: list[Subject] = []
    lost: list[str] = []
    for record in begun(root, lost):
        words = [word for word in record.get("words", ()) if _is_lasting(word)]
        name = definition_of(record)
        try:
            if name == record["sweep"] and name not in sweep_names():
                raise UserError(f"no sweep is called {name}; one of your own is made known by: ablate run FILE.")
            subjects.append(load_subject(name, record["scale"], words, root))
        except UserError as error:
            lost.append(f"{record['folder'].name}: {error}")
    return subjects, lost


def build_overview(root: Path, out: Path | None = None) -> tuple[Path, list[Entry], list[str]]:
    """Bring the report of every begun sweep up to date, and write index.html over all of them.

    Args:
        out: folder of the page and of the sweeps' reports; by default reports/ under the root.

    Returns:
        The path of the page, what it shows, and why other sweeps that were begun are not on it.

    Raises:
        UserError: no sweep was begun under the root, none can be read, or `out` cannot be written.
    """
    folder = out or root / "reports"
    subjects, lost = find_subjects(root)
    if not subjects and not lost:
        raise UserError(f"No sweep was begun in {root}; start one with: ablate run NAME (ablate list names them).")
    if not subjects:
        raise UserError(f"None of the sweeps that were begun in {root} can be read: {' '.join(lost)}")
    for subject in subjects:
        if not is_current(subject, folder / subject.folder / "index.html"):
            build(subject, folder / subject.folder)
    entries = [replace(entry_of(subject), slug=subject.folder) for subject in subjects]
    page = folder / "index.html"
    atomic_write_text(page, render_overview(entries, lost))
    return page, entries, lost


def render_overview(entries: Sequence[Entry], lost: Sequence[str], command: str = "ablate report --all") -> str:
    """The page as HTML text, for the folder in which the sweeps' reports lie."""
    judgements = [claim["judgement"] for entry in entries for claim in entry.claims]
    counts = [(word, judgements.count(word)) for word in ("supported", "contradicted", "undecided", "not measured")]
    return (
        environment()
        .get_template("overview.html")
        .render(
            css=stylesheet(),
            papers=by_paper(entries),
            lost=lost,
            command=command,
            tau=TAU,
            facts=[
                ("sweeps", str(len(entries))),
                ("cells", f"{sum(e.done for e in entries)} of {sum(e.cells for e in entries)} done"),
                *((f"claims {word}", str(count)) for word, count in counts if count),
            ],
        )
    )


def _is_lasting(word: str) -> bool:
    """Whether a word of the last request concerns all of the sweep: not one that picks some of its rows."""
    key = word.partition("=")[0]
    return "." in key or key == "seeds"
