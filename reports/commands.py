"""What `ablate report`, `publish`, `reproduce`, `explain`, `compare` and `board` do, behind the command line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import UserError
from experiments.files import default_root
from experiments.terminal import console, print_json
from lightning_modules.names import some
from reports.provenance import is_current
from reports.subject import Subject, load_subject

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from reports.entry import Entry


def report(
    sweep: str,
    scale: str = "",
    overrides: Sequence[str] = (),
    root: Path | str | None = None,
    out: Path | None = None,
    as_json: bool = False,
    keep_current: bool = False,
) -> Path:
    """Write a sweep's report, whatever has run so far, and print its table and where it lies.

    Args:
        overrides: as for `ablate run`: a part of the sweep, seeds, configuration.
        out: by default reports/<sweep>-<scale> under the root, with suffixes for configuration overrides, and for the
            part and the seeds that were asked for.
        as_json: print the table's rows, the claims and the paths as JSON instead.
        keep_current: leave a report alone that is newer than every result it shows.

    Returns:
        The report's folder.

    Raises:
        UserError: the request or the sweep's report block is wrong, the sweep was never begun, or `out` cannot be
            written.
    """
    from rich.text import Text

    from reports.build import build
    from reports.terminal import print_table

    started = time.perf_counter()
    subject = load_subject(sweep, scale, overrides, root)
    if not subject.is_begun:
        what = f"{subject.name} --scale {subject.scale} was never begun in {subject.root}"
        raise UserError(f"{what}, so there is nothing to report; begin it with: {subject.command}")
    folder = out or subject.root / "reports" / subject.folder
    if keep_current and is_current(subject, folder / "index.html"):
        print(f"Its report is up to date: {folder / 'index.html'}")
        return folder
    index = build(subject, folder)
    if as_json:
        print_json(summary(subject, index))
        return folder
    screen = console()
    print_table(subject.table, screen)
    for letter, text in subject.table.notes:
        screen.print(f"{letter}  {text}" if letter else text, style="dim")
    for verdict in subject.verdicts:
        colour = {"supported": "green", "contradicted": "red", "undecided": "yellow"}.get(verdict.judgement, "dim")
        screen.print(Text.assemble((f"{verdict.judgement:>13}", colour), f"  {verdict.claim.text}"))
    screen.print(f"\nWrote {index} in {time.perf_counter() - started:.1f} s.", soft_wrap=True)
    return folder


def summary(subject: Subject, index: Path) -> dict[str, Any]:
    """What `ablate report --json` prints; numbers are as stored, neither rounded nor scaled."""
    from reports.formats import to_data

    return {
        "sweep": subject.name,
        "scale": subject.scale,
        "folder": str(index.parent),
        "index": str(index),
        "states": subject.counts(),
        "rows": to_data(subject.table),
        "notes": [text for _, text in subject.table.notes],
        "claims": [verdict.as_json() for verdict in subject.verdicts],
    }


def overview(root: Path | str | None = None, out: Path | None = None, as_json: bool = False) -> Path:
    """Bring the reports of all begun sweeps up to date and write one page over them; print where it lies.

    Raises:
        UserError: nothing was begun, nothing that was can be read, or `out` cannot be written.
    """
    from rich.text import Text

    from reports.overview import build_overview

    page, entries, lost = build_overview(Path(root or default_root()), out)
    if as_json:
        print_json({"index": str(page), "sweeps": _as_json(entries, page), "lost": lost})
        return page
    screen = console()
    screen.print(_overview_table(entries))
    for line in lost:
        screen.print(Text.assemble(("not readable:", "yellow"), f" {line}"), soft_wrap=True)
    screen.print(f"\nWrote {page}.", soft_wrap=True)
    return page


def publish(out: Path, roots: Sequence[Path | str] = (), as_json: bool = False) -> Path:
    """Write the reports of all complete sweeps into a folder to commit, and print what is in it and what is not.

    Raises:
        UserError: no sweep is complete, or `out` cannot be written.
    """
    from reports.publish import publish as write

    readme, entries, left_out = write([Path(root) for root in roots or (default_root(),)], out)
    if as_json:
        print_json({"readme": str(readme), "sweeps": _as_json(entries, readme), "left_out": left_out})
        return readme
    screen = console()
    screen.print(_overview_table(entries))
    for line in left_out:
        screen.print(f"left out: {line}", style="dim")
    screen.print(f"\nWrote {readme}.", soft_wrap=True)
    return readme


def _as_json(entries: Sequence[Entry], page: Path) -> list[dict[str, Any]]:
    return [{**asdict(entry), "cells": entry.cells, "folder": str(page.parent / entry.slug)} for entry in entries]


def _overview_table(entries: Sequence[Entry]) -> RichTable:
    from rich.table import Table as RichTable

    table = RichTable("sweep", "scale", "cells", "claims", box=None, pad_edge=False)
    for entry in entries:
        words = [claim["judgement"] for claim in entry.claims]
        claims = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
        table.add_row(entry.sweep, entry.scale, f"{entry.done}/{entry.cells}", claims)
    return table


def reproduce(
    sweep: str,
    cell: str,
    scale: str = "",
    overrides: Sequence[str] = (),
    root: Path | str | None = None,
    into: Path | None = None,
    tolerance: float = 0.01,
    as_json: bool = False,
) -> int:
    """Run a finished cell again in another root, print both results, and return 0 if they agree, else 1.

    Raises:
        UserError: no such cell, or it is not finished.
    """
    from reports.reproduce import reproduce as run_again

    found = run_again(load_subject(sweep, scale, overrides, root), cell, into, tolerance)
    if as_json:
        print_json(found.as_json())
        return 1 if found.differing else 0
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable("metric", "stored", "again", "difference", "", box=None, pad_edge=False)
    for line in found.lines:
        table.add_row(line.label, *line.shown, Text("differs", "red") if line.differs else line.remark)
    screen = console()
    screen.print(table)
    for name, (then, now) in found.surroundings.items():
        screen.print(f"{name}: {then} then, {now} now", style="dim")
    names = ", ".join(line.label for line in found.differing)
    verdict = f"Differs beyond {tolerance:.1%}: {names}." if names else f"Agrees within {tolerance:.1%}."
    screen.print(f"{verdict} Again: {found.folder}", soft_wrap=True)
    return 1 if names else 0


def explain(
    sweep: str,
    cell: str,
    scale: str = "",
    overrides: Sequence[str] = (),
    root: Path | str | None = None,
    as_json: bool = False,
) -> None:
    """Print everything behind one cell. Raises UserError if no cell, or several, fit the word."""
    from reports.explain import explain as explain_cell

    found = explain_cell(load_subject(sweep, scale, overrides, root), cell)
    if as_json:
        print_json(found.as_json())
        return
    from rich.table import Table as RichTable

    table = RichTable(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in found.lines():
        table.add_row(name, value)
    console().print(table)


def compare(
    left: str, right: str, root: Path | str | None = None, out: Path | None = None, as_json: bool = False
) -> Path:
    """Compare two runs, print what differs, and return the folder with curves and samples side by side."""
    from reports.compare import compare_runs

    found, folder = compare_runs(left, right, Path(root or default_root()), out)
    if as_json:
        print((folder / "compare.json").read_text(encoding="utf-8"), end="")
        return folder
    from rich.markdown import Markdown

    screen = console()
    screen.print(Markdown(found.to_markdown()))
    screen.print(f"\nCurves and samples side by side: {folder}", soft_wrap=True)
    return folder


def board(
    sweep: str = "",
    scale: str = "",
    overrides: Sequence[str] = (),
    root: Path | str | None = None,
    port: int = 6006,
) -> None:
    """Serve TensorBoard on exactly a sweep's runs; without a sweep, on all runs under the root.

    Raises:
        UserError: nothing has run yet.
    """
    from reports.board import address, link_all_runs, link_board, serve

    if sweep:
        subject = load_subject(sweep, scale, overrides, root)
        folder = subject.root / "boards" / subject.folder
        names = link_board(subject, folder)
    else:
        folder = Path(root or default_root()) / "boards" / "all"
        names = link_all_runs(Path(root or default_root()), folder)
    console().print(f"{len(names)} runs: {some(names)}", soft_wrap=True)
    if sweep:
        console().print(f"One colour a row: {address(port)}", soft_wrap=True)
    serve(folder, port)
