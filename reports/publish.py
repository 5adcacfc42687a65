"""A folder of finished reports to commit or to serve: small, self-contained, without paths of this machine.

Each sweep has its page with every figure inside, its table, and its provenance; README.md and index.html lead to them.
Benchmarks that were put into its folder benchmarks/ are listed too.
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


def publish(roots: Sequence[Path], out: Path) -> tuple[Path, list[Entry], list[str]]:
    """Write every sweep that is complete in one of the roots into `out`, and what leads to them.

    Args:
        roots: of outputs, made on several machines perhaps. Of a sweep that is complete in several, the one with most
            seeds is taken, else that of the earlier root; rows of several roots never stand in one table.
        out: a sweep that is published there already is replaced; other files stay.

    Returns:
        README.md's path, what is published, and why the other sweeps that were begun are not.

    Raises:
        UserError: no sweep is complete, or `out` cannot be written.
    """
    chosen: dict[str, Subject] = {}
    why: dict[str, str] = {}
    for root in roots:
        subjects, lost = find_subjects(root)
        why |= dict.fromkeys(lost, "")
        for subject in subjects:
            done = subject.counts().get("done", 0)
            if done != len(subject.records):
                lacks = f"{subject.name} --scale {subject.scale}: {done} of {len(subject.records)} cells done"
                why.setdefault(subject.slug, lacks)
            elif subject.slug not in chosen or _seeds(subject) > _seeds(chosen[subject.slug]):
                chosen[subject.slug] = subject
    left_out = [text or key for key, text in why.items() if key not in chosen]
    if not chosen:
        searched = ", ".join(map(str, roots))
        reason = f" ({left_out[0]})" if left_out else ""
        raise UserError(f"No sweep is complete in {searched}{reason}; finish one with: ablate run NAME.")
    entries = [Entry(subject, out / slug) for slug, subject in sorted(chosen.items())]
    for entry in entries:
        build(entry.subject, entry.folder, published=True)
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
    if benchmarks := sorted((out / "benchmarks").glob("*/table.md")):
        lines += ["", "## Benchmarks", "", "Put here with `ablate bench NAME --out DIR`.", ""]
        lines += [f"* [{table.parent.name}](benchmarks/{table.parent.name}/table.md)" for table in benchmarks]
    return "\n".join(lines) + "\n"


def _size(subject: Subject) -> str:
    cells = len({tuple(record.labels.items()) for record in subject.records})
    seeds = _seeds(subject)
    flags = f", {len(subject.flags)} flags of comparability" if subject.flags else ""
    return f"{cells} cells, {seeds} {'seed' if seeds == 1 else 'seeds'}{flags}"


def _seeds(subject: Subject) -> int:
    return len({record.seed for record in subject.records})


def _tau(tau: float | None) -> str:
    return "" if tau is None else f" (τ = {tau:+.2f})"
