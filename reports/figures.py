"""Figures of a sweep: bars with the floor, curves and lines with bands; for scatter and the Pareto front see `points`.

Each function draws on axes that it is given and returns False where there is nothing to draw.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from reports.aggregate import Row, among, foremost, in_words, row_names, trainings, varied_axes
from reports.layout import Figure
from reports.points import draw_points, is_apart, untangle
from reports.quantities import quantity
from reports.records import named
from reports.style import (
    ACROSS,
    LINE,
    LONGEST_NAME,
    MOST_BESIDE,
    WIDTH,
    colour,
    grow,
    legend_below,
    marker,
    stroke,
    style,
    wrap,
)
from reports.tables import axis_label, axis_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

SMOOTHING = 0.05
"""Share of a single training-loss curve that its moving average spans; the raw curve stays visible behind it."""
BESIDE = 5
"""A legend of more entries stands beside the axes, one of still more, or of names of several lines, below them."""
LONGEST_NOTE = 48
"""Characters of the reason that stands in the place of a bar; the table has it in full."""
FEW = 12
"""A curve of at most so many points shows them."""
MOST = 4_000
"""Points that a curve is drawn with: more cannot be told apart, and would make pages of many megabytes."""


def draw(figure: Figure, rows: Sequence[Row]) -> Drawing | None:
    """Draw one figure; None where no row has what it needs."""
    rows = among(rows, figure.where)
    with style() as plt:
        drawing = draw_points(plt, figure, rows) if figure.kind in ("scatter", "pareto") else _alone(plt, figure, rows)
        if drawing is None:
            return None
        title = title_of(figure)
        if len(drawing.axes) == 1:
            drawing.axes[0].set_title(title)
        else:
            drawing.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        for axes, axis in product(drawing.axes, figure.log):
            _logarithmic(axes, axis, figure, rows)
        drawing.canvas.draw()  # laid out once, in this style, so that every format shows the same
        drawing.set_layout_engine("none")
        untangle(drawing)
        return drawing


def _alone(plt: Any, figure: Figure, rows: Sequence[Row]) -> Drawing | None:
    """A figure of one panel."""
    names = row_names(rows, foremost(rows, figure.y) if figure.kind == "bars" else ())
    lines = [wrap(name).count("\n") + 1 for name in names.values()]
    height = sum(max(0.42, LINE * (count + 1)) for count in lines) + 1.1 if figure.kind == "bars" else 3.3
    drawing, axes = plt.subplots(figsize=(WIDTH, height))
    return drawing if _DRAW[figure.kind](axes, figure, rows) else None


def _logarithmic(axes: Axes, axis: str, figure: Figure, rows: Sequence[Row]) -> None:
    """Plain numbers at 1, 2 and 5 of every decade, or at the labels of the axis that is varied."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{axis}scale")("log")
    ruler = getattr(axes, f"{axis}axis")
    ruler.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ruler.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ruler.set_minor_formatter(NullFormatter())
    if axis == "x" and figure.kind == "lines":
        ticks = dict.fromkeys(row.labels[figure.x] for row in rows if figure.x in row.labels and row.value(figure.y).n)
        ruler.set_ticks([float(label) for label in ticks], list(ticks))
        ruler.set_ticks([], minor=True)


def title_of(figure: Figure) -> str:
    """What the figure shows, in a few words, and of which rows."""
    return ", ".join(filter(None, (figure.title or _default_title(figure), in_words(figure.where))))


def _default_title(figure: Figure) -> str:
    y = figure.up.plain
    if figure.kind == "curves":
        return f"{y} while training"
    return f"{y} over {in_sentence(figure)}" if figure.x else y


def in_sentence(figure: Figure) -> str:
    """What stands on the x axis, as a word in a sentence."""
    word = axis_title(figure.x) if figure.kind == "lines" else quantity(figure.x).plain
    return word[0].lower() + word[1:] if word[1:2].islower() else word


def floors(rows: Sequence[Row], metric: str) -> list[float]:
    """The real-against-real values of a metric that the evaluations report."""
    found = {record.protocol.get("floor", {}).get(metric) for row in rows for record in row.measured}
    return sorted(value for value in found if isinstance(value, int | float))


def _bars(axes: Axes, figure: Figure, rows: Sequence[Row]) -> bool:
    known, names = figure.up, row_names(rows)
    rows = foremost(rows, figure.y)
    means = [row.value(figure.y).mean for row in rows]
    if all(mean is None for mean in means):
        return False
    longest = max(abs(mean) for mean in means if mean is not None) * known.scale
    for place, (row, mean) in enumerate(zip(rows, means, strict=True)):
        if mean is None:
            note = textwrap.shorten(row.value(figure.y).note, LONGEST_NOTE, placeholder=" …")
            axes.text(longest * 0.01, place, note, va="center", style="italic", alpha=0.75)
            continue
        width, (below, above) = mean * known.scale, (end * known.scale for end in row.value(figure.y).reach)
        hollow: Any = {"fill": False, "edgecolor": colour(place), "linewidth": 1.5} if is_apart(row, figure) else {}
        axes.barh(place, width, color=colour(place), height=0.62, **hollow)
        if below or above:
            ends, ink = [[below], [above]], axes.xaxis.label.get_color()
            axes.errorbar(width, place, xerr=ends, color=ink, capsize=3, linewidth=1.1)
        axes.text(width + above + longest * 0.015, place, format(width, known.format), va="center")
    dashed = _floor_lines(axes, figure, rows)
    axes.set_yticks(range(len(rows)), [wrap(names[row]) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(axis_label(known) + dashed)
    return True


def _floor_lines(axes: Axes, figure: Figure, rows: Sequence[Row]) -> str:
    """One line where all bars have the same floor, else one across each bar; what the label says of them."""
    known = figure.up
    looks: Any = {"linestyle": (0, (4, 3)), "linewidth": 1.2, "color": axes.xaxis.label.get_color()}
    own = {place: floors([row], figure.y) for place, row in enumerate(rows) if row.value(figure.y).mean is not None}
    found = sorted({floor * known.scale for values in own.values() for floor in values})
    if not found:
        return ""
    if len(found) == 1 and all(own.values()):
        axes.axvline(found[0], **looks)
    else:
        for place, values in own.items():
            axes.vlines([floor * known.scale for floor in values], place - 0.4, place + 0.4, **looks)
    ends = dict.fromkeys((found[0], found[-1]))
    return f"\ndashed: real images against real, {' to '.join(format(end, known.format) for end in ends)}"


def _curves(axes: Axes, figure: Figure, rows: Sequence[Row]) -> bool:
    drawn, found = False, trainings(rows)
    names = row_names(found)
    for place, row in enumerate(foremost(found, figure.y)):
        curves = [curve for record in row.records if (curve := record.curve(figure.y))]
        if not curves:
            continue
        drawn = True
        band = thinned(_band(curves))
        steps, means = [step for step, _, _ in band], [mean for _, mean, _ in band]
        if len(curves) > 1:
            low, high = [m - s for _, m, s in band], [m + s for _, m, s in band]
            axes.fill_between(steps, low, high, color=colour(place), alpha=0.18, linewidth=0)
        elif smoothed(figure, len(means)):
            axes.plot(steps, means, stroke(place), color=colour(place), alpha=0.22, linewidth=0.9)
            means = _smooth(means)
        marked = marker(place) if len(steps) <= FEW else None
        looks: Any = {"color": colour(place), "marker": marked, "markersize": 5}
        axes.plot(steps, means, stroke(place), label=names[row] or None, **looks)
    if drawn:
        axes.set_xlabel("Step")
        axes.locator_params(axis="x", integer=True)
        axes.set_ylabel(figure.up.label)
        _legend(axes)
    return drawn


def smoothed(figure: Figure, length: int) -> bool:
    """Whether a curve of so many points gets a moving average."""
    return figure.y.startswith("train/") and length * SMOOTHING >= 2


def _legend(axes: Axes) -> None:
    """Where there is more than one thing to tell apart; where it would hide what is drawn, beside or below the axes."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) < 2:
        return
    if max(map(len, names)) > LONGEST_NAME or len(names) > MOST_BESIDE:
        legend_below(axes.get_figure(), handles)
    else:
        axes.legend(**({"loc": "center left", "bbox_to_anchor": (1, 0.5)} if len(names) > BESIDE else {}))


def _band(curves: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float, float]]:
    """(step, mean, standard deviation) at the steps that every seed has."""
    tables = [dict(curve) for curve in curves]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    values = {step: [table[step] for table in tables] for step in shared}
    return [(s, statistics.fmean(v), statistics.stdev(v) if len(v) > 1 else 0.0) for s, v in values.items()]


def thinned(points: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Of more than `MOST` points the means of as many in a row as leave no more."""
    size = max(1, -(-len(points) // MOST))
    parts = (points[start : start + size] for start in range(0, len(points), size))
    return [tuple(map(statistics.fmean, zip(*part, strict=True))) for part in parts] if size > 1 else list(points)


def _smooth(values: Sequence[float]) -> list[float]:
    """Centred moving average over `SMOOTHING` of the curve, which neither lags nor shifts; shorter at the ends."""
    half = int(len(values) * SMOOTHING / 2)
    reach = [min(half, place, len(values) - 1 - place) for place in range(len(values))]
    return [statistics.fmean(values[p - r : p + r + 1]) for p, r in enumerate(reach)]


def _lines(axes: Axes, figure: Figure, rows: Sequence[Row]) -> bool:
    known = figure.up
    ticks = list(dict.fromkeys(row.labels[figure.x] for row in rows if figure.x in row.labels))
    try:
        where: Mapping[str, float] = {label: float(label) for label in ticks}
    except ValueError:
        where = {label: place for place, label in enumerate(ticks)}
        _name_ticks(axes, ticks)
    series: dict[str, list[Row]] = {}
    have = [row for row in rows if figure.x in row.labels and row.value(figure.y).n]
    if len({row.labels[figure.x] for row in have}) < 2:
        return False
    for row in have:
        rest = [named(axis, row.labels[axis]) for axis in varied_axes(row, have) if axis != figure.x]
        series.setdefault(" · ".join(rest), []).append(row)
    for place, (name, members) in enumerate(series.items()):
        members.sort(key=lambda row: where[row.labels[figure.x]])
        x = [where[row.labels[figure.x]] for row in members]
        y = [(row.value(figure.y).mean or 0.0) * known.scale for row in members]
        reaches = [row.value(figure.y).reach for row in members]
        low = [mean - below * known.scale for mean, (below, _) in zip(y, reaches, strict=True)]
        high = [mean + above * known.scale for mean, (_, above) in zip(y, reaches, strict=True)]
        axes.fill_between(x, low, high, color=colour(place), alpha=0.18, linewidth=0)
        axes.plot(x, y, stroke(place), color=colour(place), marker=marker(place), label=name or None)
    axes.set_xlabel(axis_title(figure.x))
    axes.set_ylabel(axis_label(known))
    _legend(axes)
    return True


def _name_ticks(axes: Axes, labels: Sequence[str]) -> None:
    """Names along x, upright where they are long and many; the figure grows by them."""
    room, longest = ACROSS // len(labels), max(map(len, labels))
    upright = longest > room and room < LONGEST_NAME / 2
    names = [wrap(label, LONGEST_NAME if upright else room) for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=90 if upright else 0)
    grow(axes.get_figure(), LONGEST_NAME / 2 if upright else max(name.count("\n") for name in names))


_DRAW: dict[str, Callable[[Axes, Figure, Sequence[Row]], bool]] = {
    "bars": _bars,
    "curves": _curves,
    "lines": _lines,
}
