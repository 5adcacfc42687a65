"""A folder of finished reports to commit or to serve: small, self-contained, without paths of this machine.

Each sweep has its page with every figure inside, its table, and its provenance; README.md and index.html lead to them.
What was published from elsewhere before stays, and is led to as well: its provenance.json keeps what they say of it.
Benchmarks that were put into its folder benchmarks/ are listed too.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.errors import UserError
from experiments.files import atomic_write_text
from reports.build import build
from reports.entry import TAU, Entry, by_paper, entry_of
from reports.overview import find_subjects, render_overview
from reports.subject import Subject


def publish(roots: Sequence[Path], out: Path) -> tuple[Path, list[Entry], list[str]]:
    """Write every sweep that is complete in one of the roots into `out`, and what leads to all that is there.

    Args:
        roots: of outputs, made on several machines perhaps. Of a sweep that is complete in several, the one with most
            seeds is taken, else that of the earlier root; rows of several roots never stand in one table.
        out: a sweep that is published there already is replaced, unless it has more seeds; other files stay.

    Returns:
        README.md's path, all that is published there now, and why the other sweeps that were begun are not.

    Raises:
        UserError: no sweep is complete, or `out` cannot be written.
    """
    chosen: dict[str, tuple[Subject, Entry]] = {}
    why: dict[str, str] = {}
    for root in roots:
        subjects, lost = find_subjects(root)
        why |= dict.fromkeys(lost, "")
        for subject in subjects:
            subject = replace(subject, typed=Path(subject.typed).name)  # of one's own file, not where it lies
            entry = entry_of(subject)
            if (done := entry.states.get("done", 0)) != entry.cells:
                lacks = f"{entry.sweep} --scale {entry.scale}: {done} of {entry.cells} cells done"
                why.setdefault(entry.slug, lacks)
            elif entry.slug not in chosen or entry.seeds > chosen[entry.slug][1].seeds:
                chosen[entry.slug] = subject, entry
    left_out = [text or key for key, text in why.items() if key not in chosen]
    if not chosen:
        searched = ", ".join(map(str, roots))
        reason = f" ({left_out[0]})" if left_out else ""
        raise UserError(f"No sweep is complete in {searched}{reason}; finish one with: ablate run NAME.")
    entries, unreadable = published(out)
    left_out += unreadable
    for slug, (subject, entry) in sorted(chosen.items()):
        if slug in entries and entries[slug].seeds > entry.seeds:
            there = f"{entries[slug].seeds} seeds are published, {_seeds(entry)} would replace them"
            left_out.append(f"{entry.sweep} --scale {entry.scale}: {there}; to have it so, remove {out / slug}")
            continue
        build(subject, out / slug, published=True)
        entries[slug] = published(out)[0][slug]  # as written there, without paths
    shown = [entries[slug] for slug in sorted(entries)]
    atomic_write_text(out / "index.html", render_overview(shown, [], "ablate report --publish"))
    readme = out / "README.md"
    atomic_write_text(readme, render_readme(shown, out))
    return readme, shown, left_out


def published(out: Path) -> tuple[dict[str, Entry], list[str]]:
    """What lies in a published folder by its slug, and which reports there cannot be read."""
    entries, unreadable = {}, []
    for path in sorted(out.glob("*/provenance.json")):
        slug = path.parent.name
        try:
            entries[slug] = Entry(**json.loads(path.read_text(encoding="utf-8"))["overview"])
        except (OSError, ValueError, KeyError, TypeError):
            unreadable.append(f"{path}: says nothing of its sweep to an overview; publish {slug} anew, or remove it")
    return entries, unreadable


def render_readme(entries: Sequence[Entry], out: Path) -> str:
    """The same as the page over all sweeps, as Markdown, with links relative to `out`."""
    lines = [
        "# Results",
        "",
        "Written by `ablate report --publish`, every number from the results of finished runs. `index.html` leads to",
        "pages with figures and samples, which end with the commands that make them again. A claim is judged at 95%:",
        "*undecided* where the noise of training and sampling covers the difference.",
        *textwrap.wrap(TAU, 120),
    ]
    for paper, of_paper in by_paper(entries).items():
        lines += ["", f"## {paper}"]
        for entry in of_paper:
            lines += [
                "",
                f"### [{entry.title}]({entry.slug}/table.md)",
                "",
                f"{entry.reproduces} `{entry.command}`: {_size(entry)}.",
                "",
                *(f"* best {best['quantity']}: {best['row']}, **{best['number']}**" for best in entry.best),
                *(f"* {claim['judgement']}: {claim['text']}{_tau(claim['tau'])}" for claim in entry.claims),
                *(f"* {note}" for note in entry.agreements),
            ]
    if benchmarks := sorted((out / "benchmarks").glob("*/table.md")):
        lines += ["", "## Benchmarks", "", "Put here with `ablate bench NAME --out DIR`.", ""]
        lines += [f"* [{table.parent.name}](benchmarks/{table.parent.name}/table.md)" for table in benchmarks]
    return "\n".join(lines) + "\n"


def _size(entry: Entry) -> str:
    flags = f", {entry.flags} flags of comparability" if entry.flags else ""
    return f"{entry.rows} cells, {_seeds(entry)}{flags}"


def _seeds(entry: Entry) -> str:
    return f"{entry.seeds} {'seed' if entry.seeds == 1 else 'seeds'}"


def _tau(tau: float | None) -> str:
    return "" if tau is None else f" (τ = {tau:+.2f})"
