"""One look for all figures: colours that colour-blind readers can tell apart, one font, light or dark."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8844DD", "#8B5A2B")
"""Okabe and Ito's colours, with violet and brown for black and yellow, which vanish on one of the two backgrounds."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p")
"""Not as many as the colours, so that no two of 88 rows share both."""
STROKES = ("-", "--", ":", "-.")
"""Of lines: one for all rows until the colours begin again."""
INK, FAINT, GRID = "#1b1f24", "#8a929c", "#e4e7eb"
IN_THE_DARK = {INK: "#e6e8eb", FAINT: "#8f98a3", GRID: "#343a42"}
"""What these become on a page that is read in the dark."""
DECIMALS = re.compile(r"(\.\d\d)\d+")
WIDTH = 5.6
"""Inches: a figure's text is then a little below body text in a one-column paper, and still read on a phone."""

LONGEST_NAME = 28
"""Characters of a name on one line: half of a figure's width, the other half is for what is drawn."""

MOST_BESIDE = 16
"""Entries of a legend that fit beside the axes."""

ACROSS = 72
"""Characters that fit on a line over the whole width."""
HANDLE = 7
"""Characters that the sign before a name takes, with the space between columns."""
LINE = 0.17
"""Inches that a line of text takes."""


def wrap(name: str, width: int = LONGEST_NAME) -> str:
    """A name on as many lines as it needs."""
    return textwrap.fill(name, width)


def grow(drawing: Any, lines: float) -> None:
    """Make a figure taller by lines of text."""
    drawing.set_figheight(drawing.get_figheight() + LINE * lines)


def legend_below(drawing: Any, handles: Sequence[Any], **looks: Any) -> None:
    """A legend under all axes, in as many columns as fit; the figure grows by it."""
    names = [str(handle.get_label()) for handle in handles]
    columns = max(1, min(len(names), ACROSS // (max(map(len, names)) + HANDLE)))
    names = [wrap(name, ACROSS) for name in names]
    lines = sum(name.count("\n") + 1.2 for name in names)
    grow(drawing, math.ceil(lines / columns))
    drawing.legend(handles, names, loc="outside lower center", ncols=columns, columnspacing=1, **looks)


def colour(index: int) -> str:
    """The colour of the index-th row."""
    return PALETTE[index % len(PALETTE)]


def marker(index: int) -> str:
    """The marker of the index-th row: told apart without colour too."""
    return MARKERS[index % len(MARKERS)]


def stroke(index: int) -> str:
    """How the line of the index-th row is drawn."""
    return STROKES[index // len(PALETTE) % len(STROKES)]


@contextmanager
def style() -> Iterator[Any]:
    """matplotlib.pyplot in the house style; figures made inside are closed at the end."""
    import matplotlib

    matplotlib.use("Agg", force=True)
    import matplotlib.pyplot as plt

    settings: Any = {
        "figure.constrained_layout.use": True,
        "figure.facecolor": "white",
        "axes.facecolor": "none",
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "text.color": INK,
        "text.parse_math": False,  # a dollar sign in a name is one
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "lines.linewidth": 1.8,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "pdf.fonttype": 42,
        "svg.hashsalt": "report",
    }
    with plt.rc_context(settings):
        try:
            yield plt
        finally:
            plt.close("all")


def save(figure: Figure, stem: Path) -> None:
    """Write `stem`.png (200 dpi) and `stem`.pdf, without dates, so that the same numbers give the same files."""
    for suffix, metadata in ((".png", {}), (".pdf", {"CreationDate": None})):
        with style(), atomic_path(stem.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, dpi=200, format=suffix[1:], metadata=metadata)


def to_svg(figure: Figure) -> str:
    """The figure as SVG text: letters as outlines, so that it looks the same everywhere; light or dark as the reader's
    screen is; coordinates to hundredths of a point."""
    text = io.StringIO()
    with style():
        figure.savefig(text, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark} !important}}'
        for light, dark in IN_THE_DARK.items()
        for what in ("fill", "stroke")
    )
    rules = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    short = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: DECIMALS.sub(r"\1", found[0]), text.getvalue())
    return re.sub(r"(<svg[^>]*>)", lambda found: found[1] + rules, short, count=1)
