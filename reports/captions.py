"""What a figure shows and how its marks are read, in a sentence or two below it."""

from __future__ import annotations

from collections.abc import Sequence

from reports.aggregate import Row, among, foremost, in_part, listed, trainings
from reports.figures import MOST, SMOOTHING, smoothed, title_of
from reports.layout import Figure
from reports.points import is_apart, left_out, names_front, panels, times_apart
from reports.tables import axis_title


def caption(figure: Figure, rows: Sequence[Row]) -> str:
    """The caption of one figure, its title included."""
    rows = among(rows, figure.where)
    sentences = [f"{title_of(figure)}."]
    if figure.kind == "curves":
        sentences += _of_curves(figure, rows)
    else:
        sentences += _of_noise(figure, rows)
    apart = [times_apart(panel, rows) for panel in panels(figure)]
    if figure.kind == "pareto" and not all(apart):
        named = "; its rows are named" if names_front(figure, rows) else ""
        sentences.append(f"The line is the Pareto front of the means: no row beats one on it in both{named}.")
    if any(apart):
        sentences.append("Times of separate runs have no front: other work may have run beside them.")
    if figure.colour and figure.marker:
        colour, marker = axis_title(figure.colour).lower(), axis_title(figure.marker).lower()
        sentences.append(f"Thin lines join rows of one {colour}, which differ in {marker}.")
    if figure.kind == "bars":
        sentences += filter(None, [in_part(rows, figure.y)])
    if figure.kind in ("bars", "scatter", "pareto"):
        sentences += _of_apart(figure, rows)
    if figure.kind in ("scatter", "pareto") and (lost := left_out(figure, rows)):
        sentences.append(f"Left out, as 0 and less have no logarithm: {listed(lost, rows)}.")
    if figure.kind == "scatter" and figure.fit:
        words = {"y": "of the logarithm of y", "x": "over the logarithm of x"}
        scale = " ".join(text for axis, text in words.items() if axis in figure.log)
        sentences.append(f"Dashed: least squares, with Pearson's r{', ' if scale else ''}{scale}.")
    return " ".join(sentences)


def _of_apart(figure: Figure, rows: Sequence[Row]) -> list[str]:
    """What the hollow points are."""
    if not any(is_apart(row, panel) for panel in panels(figure) for row in rows):
        return []
    part = ", and no part of a front" if figure.kind == "pareto" else ", and no part of a fit" if figure.fit else ""
    return [f"Hollow: measured in another way, not comparable with the others{part}."]


def _of_curves(figure: Figure, rows: Sequence[Row]) -> list[str]:
    found = trainings(rows)
    shown = foremost(found, figure.y)
    curves = [[curve for record in row.records if (curve := record.curve(figure.y))] for row in shown]
    seeds, longest = max(map(len, curves), default=0), max((len(curve) for own in curves for curve in own), default=0)
    sentences = []
    if seeds > 1:
        sentences.append(f"Mean over seeds, with a band of one standard deviation (up to {seeds} seeds).")
    elif smoothed(figure, longest):
        sentences.append(f"Moving average over {SMOOTHING:.0%} of the curve, before the curve itself.")
    if longest > MOST:
        sentences.append(f"Of curves of more than {MOST:,} points the means of several in a row are drawn.")
    return [*sentences, *filter(None, [in_part(found, figure.y, "trainings")])]


def _of_noise(figure: Figure, rows: Sequence[Row]) -> list[str]:
    """What error bars and bands mean."""
    values = [row.value(figure.y) for row in rows]
    mark = "Bands" if figure.kind == "lines" else "Error bars"
    single = {value.error_source for value in values if value.n == 1 and any(value.errors)}
    sources = {
        "repetitions": "95% interval of the median over repetitions",
        "bootstrap interval": "95% bootstrap interval over samples; one seed, so training noise is not in them",
        "spread over subsets": "1.96 standard deviations over subsets of the samples",
    }
    kinds = [text for source, text in sources.items() if source in single]
    if any(value.std is not None for value in values):
        kinds = ["one standard deviation over seeds", *(f"of rows with one seed, {text}" for text in kinds)]
    return [f"{mark}: {'; '.join(kinds)}."] if kinds else []
