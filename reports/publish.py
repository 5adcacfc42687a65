"""A folder of finished reports to commit or to serve: small, self-contained, without paths of this machine.

Each sweep has its page with every figure inside, its table, and its provenance; README.md and index.html lead to them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import UserError
from experiments.files import atomic_write_text
from reports.build import build
from reports.overview import Entry, by_paper, find_subjects, render_overview
from reports.subject import Subject


def publish(root: Path, out: Path) -> tuple[Path, list[Entry], list[str]]:
    """Write every sweep of a root that is complete into `out`, and what leads to them.

    Args:
        out: a sweep that is published there already is replaced; other files stay.

    Returns:
        README.md's path, what is published, and why the other sweeps that were begun are not.

    Raises:
        UserError: no sweep is complete, or `out` cannot be written.
    """
    subjects, left_out = find_subjects(root)
    entries = []
    for subject in subjects:
        counts = subject.counts()
        if counts.get("done") != len(subject.records):
            done = counts.get("done", 0)
            left_out.append(f"{subject.name} --scale {subject.scale}: {done} of {len(subject.records)} cells done")
            continue
        entries.append(Entry(subject, out / subject.slug))
        build(subject, out / subject.slug, published=True)
    if not entries:
        why = f" ({left_out[0]})" if left_out else ""
        raise UserError(f"No sweep is complete in {root}{why}; finish one with: ablate run NAME.")
    atomic_write_text(out / "index.html", render_overview(entries, [], out, "ablate report --publish"))
    readme = out / "README.md"
    atomic_write_text(readme, render_readme(entries, out))
    return readme, entries, left_out


def render_readme(entries: Sequence[Entry], out: Path) -> str:
    """The same as the page over all sweeps, as Markdown, with links relative to `out`."""
    lines = [
        "# Results",
        "",
        "Written by `ablate report --publish`, every number from the results of finished runs. `index.html` leads to",
        "pages with figures and samples, which end with the commands that make them again. A claim is judged at 95%:",
        "*undecided* where the noise of training and sampling covers the difference.",
    ]
    for paper, of_paper in by_paper(entries).items():
        lines += ["", f"## {paper}"]
        for entry in of_paper:
            subject = entry.subject
            folder = os.path.relpath(entry.folder, out).replace(os.sep, "/")
            lines += [
                "",
                f"### [{subject.title}]({folder}/table.md)",
                "",
                f"{subject.reproduces} `{subject.command}`: {_size(subject)}.",
                "",
                *(f"* best {quantity}: {row}, **{number}**" for quantity, row, number in entry.best),
                *(f"* {verdict.judgement}: {verdict.claim.text}{_tau(verdict.tau)}" for verdict in entry.verdicts),
                *(f"* {note}" for note in subject.agreements),
            ]
    return "\n".join(lines) + "\n"


def _size(subject: Subject) -> str:
    cells = len({tuple(record.labels.items()) for record in subject.records})
    seeds = len({record.seed for record in subject.records})
    flags = f", {len(subject.flags)} flags of comparability" if subject.flags else ""
    return f"{cells} cells, {seeds} {'seed' if seeds == 1 else 'seeds'}{flags}"


def _tau(tau: float | None) -> str:
    return "" if tau is None else f" (τ = {tau:+.2f})"
