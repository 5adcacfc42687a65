"""The layout for what was measured: FID in the place of what stands in for it, and columns for its kin.

Sweep definitions name what every machine can measure. What needs weights that the user brings (Inception for FID and
IS, CLIP, DINOv2) is known only from the results.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lightning_modules.metrics.config import IN_PLACE_OF
from reports.layout import Column, Layout, paper_column
from reports.quantities import quantity
from reports.records import Record

BESIDE = (
    "is",
    "is_std",
    "sfid",
    "precision",
    "recall",
    "fd_dinov2",
    "clip_score",
    "attribute_binding",
    "spatial_relations",
)
"""Qualities that follow the Fréchet distance where they were measured; IS std where the paper prints it."""


def with_measured(layout: Layout, records: Iterable[Record]) -> Layout:
    """The layout of a sweep with the columns and figures that its results allow.

    A stand-in gives its place to the quantity itself where every finished cell has that; where only some have it, it
    stays behind it. A sweep whose table shows no Fréchet distance is left as it is.
    """
    found = [set(record.metrics) for record in records if not record.reason]
    if not found or not any(column.metric == "fd_efflite0" for column in layout.columns):
        return layout
    anywhere, everywhere = set.union(*found), set.intersection(*found)
    proper = {stand_in: name for stand_in, name in IN_PLACE_OF.items() if name in everywhere}
    there = {column.metric for column in layout.columns}
    columns: list[Column] = []
    for column in layout.columns:
        name = IN_PLACE_OF.get(column.metric, "")
        if name in anywhere - there:
            columns.append(_column(name, layout, column))
        if column.metric not in proper:
            columns.append(replace(column, paper="") if name in anywhere else column)
        if column.metric == "fd_efflite0":
            shown = there | {IN_PLACE_OF[metric] for metric in there & IN_PLACE_OF.keys()}
            published = layout.reference.columns if layout.reference else ()
            beside = [name for name in BESIDE if name != "is_std" or name in published]
            columns += [_column(name, layout) for name in beside if name in anywhere - shown]
    figures = tuple(
        replace(
            figure,
            x=proper.get(figure.x, figure.x),
            y=proper.get(figure.y, figure.y),
            beside=tuple(proper.get(name, name) for name in figure.beside),
        )
        for figure in layout.figures
    )
    return replace(layout, columns=tuple(columns), figures=figures)


def _column(name: str, layout: Layout, like: Column | None = None) -> Column:
    """A column of a quantity: ranked, and beside the paper's, as the one is that it takes the place of."""
    known = quantity(name)
    paper = like.paper if like and like.paper else paper_column(name, layout.reference)
    better = like.better if like else known.better
    return Column(name, known.label, better, known.format, known.scale, paper, known.description)
