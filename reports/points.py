"""Scatter figures and the Pareto front: two quantities of every row, alone or in panels that share their scale."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from reports.aggregate import Row, row_names, varied_axes
from reports.comparable import set_apart
from reports.contest import timed_apart
from reports.layout import Figure
from reports.quantities import quantity
from reports.records import named
from reports.style import LONGEST_NAME, MOST_BESIDE, WIDTH, colour, legend_below, marker, wrap
from reports.tables import DASH, axis_label, axis_title
from reports.uncertainty import pearson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

NAME = "name of a point"
BESIDE = ((7, 5), (7, -12), (-7, 5), (-7, -12), (7, 17), (7, -24), (-7, 17), (-7, -24), (7, 29), (7, -36))
"""Where a point's name may stand, in points of print from it; the first free place is taken."""
CROWD = 8
"""Beyond so many points rows are told apart by colours and markers in a legend, not by their names."""
Points = list[tuple[Row, float, float]]
"""Rows that have both quantities, with the numbers as printed."""


def draw_points(plt: Any, figure: Figure, rows: Sequence[Row]) -> Drawing | None:
    """Draw a figure of kind scatter or pareto: a row of panels for each label of `figure.panels`, a column for each x.

    Args:
        plt: matplotlib.pyplot in the house style.
    """
    labels = list(dict.fromkeys(row.labels.get(figure.panels, "") for row in rows)) if figure.panels else [""]
    places = list(product(labels, panels(figure)))
    alone, across = len(places) == 1, len(figure.beside) + 1
    size = (WIDTH, 3.3 if len(labels) == 1 else 2.6 * len(labels) + 0.4)
    drawing, grid = plt.subplots(len(labels), across, figsize=size, sharey=True, sharex="col", squeeze=False)
    looks, drawn = _Looks(figure, rows), False
    for axes, (label, panel) in zip(grid.flat, places, strict=True):
        inside = [row for row in rows if row.labels.get(figure.panels, "") == label]
        drawn |= _panel(axes, panel, inside, looks)
        if figure.panels:
            axes.set_title(f"{axis_title(figure.panels)}: {label or DASH}", fontweight="normal", fontsize=9.5)
    for axes in grid[:-1].flat:
        axes.set_xlabel("")
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    keys = list(looks.keys(drawing.axes[0].xaxis.label.get_color()))
    handles = [*keys, *drawing.axes[0].get_legend_handles_labels()[0]] if alone else keys
    long = len(handles) > MOST_BESIDE or any(len(key.get_label()) > LONGEST_NAME for key in keys)
    if keys and (long or not alone):
        legend_below(drawing, handles, handletextpad=0)
    elif handles:
        beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if keys else {}
        drawing.axes[0].legend(handles=handles, **beside)
    return drawing if drawn else None


def panels(figure: Figure) -> list[Figure]:
    """A figure for each quantity in the place of x."""
    return [replace(figure, x=x, beside=()) for x in (figure.x, *figure.beside)]


def times_apart(figure: Figure, rows: Sequence[Row]) -> bool:
    """Whether an axis shows times of separate runs, beside which other work may have run: no front is drawn there."""
    return timed_apart(rows, figure.x) or timed_apart(rows, figure.y)


def is_apart(row: Row, figure: Figure) -> bool:
    """Whether a quantity of a panel, or of bars, was measured in another way than the other rows': it is drawn hollow,
    and no front or fit has it."""
    return any(set_apart(row, name) for name in (figure.x, figure.y) if name and row.value(name).n)


def names_front(figure: Figure, rows: Sequence[Row]) -> bool:
    """Whether the rows on the front are named: where a crowd of rows is not."""
    crowd = len(_points(figure, rows)) > CROWD and not _long_names(rows)
    return not figure.colour and not figure.panels and crowd


def _long_names(rows: Sequence[Row]) -> bool:
    """Whether a name would take more than two lines beside its point."""
    return len(rows) > 1 and any(len(name) > 2 * LONGEST_NAME for name in row_names(rows).values())


def families(figure: Figure, points: Points) -> dict[str, Points]:
    """The points of each colour; all together where the figure gives none."""
    result: dict[str, Points] = {}
    for point in points:
        result.setdefault(point[0].labels.get(figure.colour, ""), []).append(point)
    return result


class _Looks:
    """Colour and marker of every row: its own, or, in a crowd and where the figure says so, those of its labels."""

    def __init__(self, figure: Figure, rows: Sequence[Row]):
        self._rows = list(rows)
        self._drawn = [row for panel in panels(figure) for row, _, _ in _points(panel, rows)]
        self._colour, self._marker = figure.colour, figure.marker
        if not (figure.colour or figure.marker) and (len(_points(figure, rows)) > CROWD or _long_names(rows)):
            varied = varied_axes(rows[0], rows)
            self._colour, self._marker = varied[0], varied[-1]
        self._labels = {axis: self._numbered(axis) for axis in (self._colour, self._marker)}

    @property
    def by_name(self) -> bool:
        """Whether rows stand by their names."""
        return not (self._colour or self._marker)

    def of(self, row: Row) -> tuple[str, str]:
        """Colour and marker."""
        return colour(self._place(row, self._colour)), marker(self._place(row, self._marker))

    def keys(self, ink: str) -> Iterator[Any]:
        """What the legend shows."""
        from matplotlib.lines import Line2D

        one = self._colour == self._marker
        for number, label in self._shown(self._colour):
            shape = marker(number) if one else "s"
            yield Line2D([], [], marker=shape, color=colour(number), linestyle="", label=named(self._colour, label))
        for number, label in () if one else self._shown(self._marker):
            yield Line2D([], [], marker=marker(number), color=ink, linestyle="", label=named(self._marker, label))

    def _shown(self, axis: str) -> list[tuple[int, str]]:
        """The labels of the rows that are drawn, with their places among all."""
        drawn = {row.labels.get(axis) for row in self._drawn}
        return [(place, label) for label, place in self._labels[axis].items() if label in drawn]

    def _numbered(self, axis: str) -> dict[str, int]:
        """The labels of an axis, with their places."""
        found = dict.fromkeys(row.labels[axis] for row in self._rows if axis in row.labels)
        return {label: place for place, label in enumerate(found)}

    def _place(self, row: Row, axis: str) -> int:
        if self.by_name:
            return next(place for place, other in enumerate(self._rows) if other is row)
        return self._labels[axis][row.labels[axis]] if axis in row.labels else 0


def _panel(axes: Axes, figure: Figure, rows: Sequence[Row], looks: _Looks) -> bool:
    points, up, names = _points(figure, rows), figure.up, row_names(rows)
    for row, x, y in points:
        (hue, shape), (below, above) = looks.of(row), (end * up.scale for end in row.value(figure.y).reach)
        faint, ends = 1.0 if looks.by_name else 0.4, [[below], [above]] if below or above else None
        axes.errorbar(x, y, yerr=ends, color=hue, capsize=3, linewidth=1.1, alpha=faint)
        axes.plot(x, y, shape, color=hue, markersize=8, fillstyle="none" if is_apart(row, figure) else "full")
        if looks.by_name:
            _name(axes, names[row], x, y, 9)
    if figure.colour and figure.marker:
        _join(axes, figure, points, looks)
    axes.margins(0.16, 0.2)
    axes.set_xlabel(axis_label(quantity(figure.x)))
    axes.set_ylabel(axis_label(up))
    alike = [point for point in points if not is_apart(point[0], figure)]
    if figure.fit:
        _fit(axes, figure, alike, looks)
    if figure.kind == "pareto" and not times_apart(figure, rows):
        front = _front(alike, *(-1 if known.better == "higher" else 1 for known in (quantity(figure.x), up)))
        for row, x, y in front if names_front(figure, rows) else ():
            _name(axes, names[row], x, y, 8)
        xs, ys = [x for _, x, _ in front], [y for _, _, y in front]
        axes.step(xs, ys, where="post", color=axes.xaxis.label.get_color(), linewidth=1.1, alpha=0.6, zorder=0)
    return bool(points)


def _points(figure: Figure, rows: Sequence[Row]) -> Points:
    result = []
    for row in rows:
        x, y = row.value(figure.x).mean, row.value(figure.y).mean
        if x is not None and y is not None and not _lacks_logarithm(figure, x, y):
            result.append((row, x * quantity(figure.x).scale, y * quantity(figure.y).scale))
    return result


def _lacks_logarithm(figure: Figure, x: float, y: float) -> bool:
    return ("x" in figure.log and x <= 0) or ("y" in figure.log and y <= 0)


def left_out(figure: Figure, rows: Sequence[Row]) -> list[Row]:
    """The rows that a logarithmic axis cannot show, in one of the panels at least."""
    result = []
    for row in rows:
        y = row.value(figure.y).mean
        xs = [x for panel in panels(figure) if (x := row.value(panel.x).mean) is not None]
        if y is not None and any(_lacks_logarithm(figure, x, y) for x in xs):
            result.append(row)
    return result


def _name(axes: Axes, name: str, x: float, y: float, size: int) -> None:
    axes.annotate(wrap(name), (x, y), xytext=BESIDE[0], textcoords="offset points", fontsize=size, gid=NAME)


def untangle(drawing: Drawing) -> None:
    """Move the names of points that lie close together apart, each to the first free place around its point.

    Args:
        drawing: laid out; where nothing is free a name stays where it is.
    """
    from matplotlib.text import Annotation

    for axes in drawing.axes:
        names = [text for text in axes.texts if isinstance(text, Annotation) and text.get_gid() == NAME]
        frame = axes.get_window_extent()
        taken: list[Any] = []
        for text in names:
            for place in BESIDE:
                text.xyann = place
                text.set_horizontalalignment("right" if place[0] < 0 else "left")
                box = text.get_window_extent()
                if box.x0 >= frame.x0 and box.x1 <= drawing.bbox.x1 and not any(box.overlaps(other) for other in taken):
                    break
            else:
                text.xyann, box = BESIDE[0], text.get_window_extent()
                text.set_horizontalalignment("left")
            taken.append(box)


def _join(axes: Axes, figure: Figure, points: Points, looks: _Looks) -> None:
    """A thin line between the points of one colour: what differs between them is the marker's axis."""
    for members in families(figure, points).values():
        xs, ys = [x for _, x, _ in members], [y for _, _, y in members]
        axes.plot(xs, ys, color=looks.of(members[0][0])[0], linewidth=1.0, alpha=0.5, zorder=1)


def _fit(axes: Axes, figure: Figure, points: Points, looks: _Looks) -> None:
    """Least squares on the axes as drawn, a line for each colour."""
    for label, members in families(figure, points).items():
        xs, ys = [x for _, x, _ in members], [y for _, _, y in members]
        across = [math.log(x) for x in xs] if "x" in figure.log else xs
        up = [math.log(y) for y in ys] if "y" in figure.log else ys
        if (r := pearson(across, up)) is None:
            continue
        slope = r * statistics.stdev(up) / statistics.stdev(across)
        ends = [xs.index(min(xs)), xs.index(max(xs))]
        line = [statistics.fmean(up) + slope * (across[i] - statistics.fmean(across)) for i in ends]
        heights = [math.exp(end) for end in line] if "y" in figure.log else line
        name = f"{named(figure.colour, label)}, r = {r:.3f}" if label else f"r = {r:.3f}"
        ink = looks.of(members[0][0])[0] if label else axes.xaxis.label.get_color()
        axes.plot([xs[i] for i in ends], heights, "--", color=ink, linewidth=1.1, zorder=0, label=name)


def _front(points: Points, across: int, up: int) -> Points:
    """The points that no other one beats on both quantities, the best by x first.

    Args:
        across, up: +1 where less of x, of y, is better, else -1.
    """
    front: Points = []
    for row, x, y in sorted(points, key=lambda point: (across * point[1], up * point[2])):
        if not front or up * y < up * front[-1][2]:
            front.append((row, x, y))
    return front
