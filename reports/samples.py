"""Samples side by side: the same classes and the same seeds, one row per configuration.

Shapes: images (n, H, W, 3) uint8, labels (n,).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datamodules.config import DATASETS
from reports.aggregate import Row, row_name
from reports.records import Record

TILE = 96
"""Side of a tile in pixels: small images are enlarged by whole factors, without smoothing, to about this."""
MARGIN = 6


@dataclass(frozen=True)
class SampleRow:
    """The images of one configuration."""

    name: str
    images: np.ndarray


@dataclass(frozen=True)
class Samples:
    """Rows of images under shared class names."""

    rows: tuple[SampleRow, ...]
    classes: tuple[str, ...]
    seeds: str
    """Which seeds the images were drawn with, in words."""
    notes: tuple[str, ...] = ()


def collect_samples(rows: Sequence[Row], count: int) -> Samples | None:
    """Take `count` images of every measured row: the first of each class, then the second, and so on.

    Returns:
        None where no row has samples.
    """
    drawn = []
    for row in rows:
        record = next((r for r in row.measured if r.evaluation and r.evaluation.samples_path.exists()), None)
        if record is not None and record.evaluation is not None:
            with np.load(record.evaluation.samples_path) as file:
                drawn.append((row_name(row, rows), record, file["arr_0"], file["labels"]))
    if not drawn or count < 1:
        return None
    _, first, _, labels = drawn[0]
    picks = _picks(labels, count)
    result, notes = [], []
    for name, record, images, own in drawn:
        chosen = picks
        if len(own) < len(labels) or not np.array_equal(own[picks], labels[picks]):
            chosen = _picks(own, count)
            notes.append(f"{name}: other labels than the first row, so not image by image comparable.")
        if (seed := record.config.get("evaluation.seed")) != first.config.get("evaluation.seed"):
            notes.append(f"{name}: sampled with seed {seed}.")
        result.append(SampleRow(name, images[chosen]))
    names = class_names(first)
    classes = tuple(names[label] if label < len(names) else f"class {label}" for label in labels[picks].tolist())
    return Samples(tuple(result), classes, f"evaluation.seed={first.config.get('evaluation.seed', 0)}", tuple(notes))


def _picks(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices ordered by occurrence within the class, then class; neighbours of one class stay together."""
    order = np.argsort(labels, kind="stable")
    occurrence = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        occurrence[members] = np.arange(len(members))
    chosen = np.lexsort((labels, occurrence))[:count]
    return chosen[np.lexsort((occurrence[chosen], labels[chosen]))]


def class_names(record: Record) -> tuple[str, ...]:
    """Names of the classes of the data set that a record was trained on; () where it has none."""
    name = record.config.get("data.name")
    if name not in DATASETS.names():
        return ()
    return tuple(getattr(DATASETS[name].config, "class_names", ()) and DATASETS[name].config().class_names)


def enlarge(images: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) by a whole factor to about `TILE` pixels, each pixel a square."""
    factor = max(1, round(TILE / images.shape[1]))
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def strip(images: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) side by side as one image (H, n * W, 3)."""
    return np.concatenate(list(images), axis=1)


def grid_image(samples: Samples) -> Image.Image:
    """The whole grid as one picture: class names on top, row names at the left."""
    name_font, class_font = _font(15), _font(12)
    left = int(max(name_font.getlength(row.name) for row in samples.rows)) + 3 * MARGIN
    tiles = [enlarge(row.images) for row in samples.rows]
    height, width = tiles[0].shape[1:3]
    heads = [textwrap.wrap(name, max(6, width // 8))[:3] for name in samples.classes]
    top = max(len(lines) for lines in heads) * 15 + 2 * MARGIN
    size = (left + len(samples.classes) * (width + MARGIN), top + len(tiles) * (height + MARGIN))
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for column, lines in enumerate(heads):
        x = left + column * (width + MARGIN) + width / 2
        pen.multiline_text((x, top - MARGIN), "\n".join(lines), "black", class_font, "md", align="center")
    for place, (row, images) in enumerate(zip(samples.rows, tiles, strict=True)):
        y = top + place * (height + MARGIN)
        pen.text((MARGIN, y + height / 2), row.name, "black", name_font, "lm")
        for column, image in enumerate(images):
            picture.paste(Image.fromarray(image), (left + column * (width + MARGIN), y))
    return picture


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
