"""Samples side by side: the same classes or captions and the same seeds, one row per configuration.

Shapes: images (n, H, W, 3) uint8, labels (n,).
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datamodules.config import DATASETS
from experiments.files import reading
from reports.aggregate import Row, foremost, in_part, row_names
from reports.records import Record

TILE = 96
"""Side of a tile in pixels: small images are enlarged by whole factors, without smoothing, to about this."""
MARGIN = 6


@dataclass(frozen=True)
class SampleRow:
    """The images of one configuration."""

    name: str
    images: np.ndarray
    heads: tuple[str, ...]
    """What each column was asked for: the name of its class, or its caption."""


@dataclass(frozen=True)
class Samples:
    """Rows of images, alike in what they were asked for wherever the evaluations allow it."""

    rows: tuple[SampleRow, ...]
    captioned: bool
    seeds: str
    """Which seeds the images were drawn with, in words."""
    notes: tuple[str, ...] = ()

    def bands(self) -> list[tuple[str, ...]]:
        """The heads that stand above each row: none where they are those of the row before."""
        before = [(), *(row.heads for row in self.rows)]
        return [row.heads if row.heads != last else () for row, last in zip(self.rows, before, strict=False)]


@dataclass(frozen=True)
class _Drawn:
    """What one evaluation drew."""

    name: str
    record: Record
    path: Path
    labels: np.ndarray
    captions: np.ndarray | None

    def asked(self, picks: np.ndarray) -> list[Any]:
        """What these images were asked for."""
        return (self.labels if self.captions is None else self.captions)[picks].tolist()

    def heads(self, picks: np.ndarray) -> tuple[str, ...]:
        """The same in words."""
        asked = self.asked(picks)
        if self.captions is None:
            names = class_names(self.record)
            asked = [names[label] if label < len(names) else f"class {label}" for label in asked]
        return tuple(asked)


def collect_samples(rows: Sequence[Row], count: int, ranked_by: str = "") -> Samples | None:
    """Take `count` images of every measured row: the first of each class, then the second, and so on.

    Args:
        ranked_by: quantity that says which of very many rows are shown.

    Returns:
        None where no row has samples.

    Raises:
        UserError: a file of samples is damaged.
    """
    drawn, names = [], row_names(rows)
    for row in foremost(rows, ranked_by):
        record = next((r for r in row.measured if r.evaluation and r.evaluation.samples_path.exists()), None)
        if record is not None and record.evaluation is not None:
            path = record.evaluation.samples_path
            with _reading(path), np.load(path) as file:
                captions = file["captions"] if "captions" in file else None
                drawn.append(_Drawn(names[row], record, path, file["labels"], captions))
    if not drawn or count < 1:
        return None
    first = drawn[0]
    picks = _picks(first.labels, count)
    result, notes, others = [], [*filter(None, [in_part(rows, ranked_by)])], []
    for own in drawn:
        chosen = picks
        if len(own.labels) < len(first.labels) or own.asked(picks) != first.asked(picks):
            chosen = _picks(own.labels, count)
            others.append(own.name)
        if (seed := own.record.config.get("evaluation.seed")) != first.record.config.get("evaluation.seed"):
            notes.append(f"{own.name}: sampled with seed {seed}.")
        result.append(SampleRow(own.name, read_images(own.path, int(chosen.max()) + 1)[chosen], own.heads(chosen)))
    if others:
        what = "labels" if first.captions is None else "captions"
        notes.insert(0, f"Other {what}, so not comparable image by image with {first.name}: {', '.join(others)}.")
    heads = list(dict.fromkeys(row.heads for row in result))
    result.sort(key=lambda row: heads.index(row.heads))  # what was asked for the same stands together
    seeds = f"evaluation.seed={first.record.config.get('evaluation.seed', 0)}"
    return Samples(tuple(result), first.captions is not None, seeds, tuple(notes))


def read_images(path: Path, count: int) -> np.ndarray:
    """The first `count` images of a samples.npz, (count, H, W, 3) uint8, without reading the others. Raises UserError
    where the file is damaged."""
    with _reading(path), zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        count = min(count, shape[0])
        size = count * math.prod(shape[1:]) * dtype.itemsize
        return np.frombuffer(file.read(size), dtype).reshape(count, *shape[1:])


def _reading(path: Path) -> AbstractContextManager[None]:
    way_out = f"remove it to leave these samples out, or {path.parent} to have `ablate run` draw and measure them again"
    return reading(path, way_out)


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
    if named := record.config.get("data.classes"):  # of a folder of one's own
        return tuple(named)
    name = record.config.get("data.name")
    if name not in DATASETS.names():
        return ()
    return tuple(getattr(DATASETS[name].config, "class_names", ()) and DATASETS[name].config().class_names)


def enlarge(images: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) by a whole factor to about `TILE` pixels, each pixel a square."""
    factor = max(1, round(TILE / images.shape[1]))
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def strip(images: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) side by side as one image (H, n * (W + gap), 3), with half a gap of white on either side of each."""
    half = max(1, images.shape[2] // 32)
    return np.concatenate(list(np.pad(images, ((0, 0), (0, 0), (half, half), (0, 0)), constant_values=255)), axis=1)


def png_uri(picture: Image.Image) -> str:
    """A picture as a data URI."""
    data = io.BytesIO()
    picture.save(data, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def grid_image(samples: Samples) -> Image.Image:
    """The whole grid as one picture: classes or captions on top, row names at the left."""
    name_font, head_font = ImageFont.load_default(15), ImageFont.load_default(12)
    left = int(max(name_font.getlength(row.name) for row in samples.rows)) + 3 * MARGIN
    tiles = [enlarge(row.images) for row in samples.rows]
    height, width = (max(images.shape[side] for images in tiles) for side in (1, 2))  # rows may differ in resolution
    bands = [_wrap(heads, width) for heads in samples.bands()]
    tall = [max(len(lines) for lines in band) * 15 + 2 * MARGIN if band else 0 for band in bands]
    columns = max(len(images) for images in tiles)
    size = (left + columns * (width + MARGIN), sum(tall) + len(tiles) * (height + MARGIN))
    picture = Image.new("RGB", size, "white")
    pen, y = ImageDraw.Draw(picture), 0
    for row, images, band, high in zip(samples.rows, tiles, bands, tall, strict=True):
        y += high
        for column, lines in enumerate(band):
            middle = left + column * (width + MARGIN) + width / 2
            pen.multiline_text((middle, y - MARGIN), "\n".join(lines), "black", head_font, "md", align="center")
        pen.text((MARGIN, y + height / 2), row.name, "black", name_font, "lm")
        for column, image in enumerate(images):
            x = left + column * (width + MARGIN) + (width - image.shape[1]) // 2
            picture.paste(Image.fromarray(image), (x, y + (height - image.shape[0]) // 2))
        y += height + MARGIN
    return picture


def _wrap(heads: Sequence[str], width: int) -> list[list[str]]:
    """Every head as up to three lines that fit a tile of `width` pixels."""
    return [textwrap.wrap(head, max(6, width // 8))[:3] for head in heads]
