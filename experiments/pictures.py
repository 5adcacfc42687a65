"""Grids of images as one picture, with the caption that each image was asked for with.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.files import atomic_path

GRID_ROWS = 4
"""Rows of the sample grids that are drawn during training."""
CAPTIONED_TILE = 96
"""Least side of a tile with a caption under it, in pixels; images are enlarged by whole factors."""
SMALL = 128
"""Images with fewer pixels across are enlarged in the grids that a run keeps; of others, dozens of grids of a training
take gigabytes as it is."""
LINES = 3
FONT_SIZE = 11
LINE_HEIGHT = 13


def image_grid(images: np.ndarray, columns: int, scale: int = 1, gap: int = 2) -> np.ndarray:
    """(N, H, W, 3) uint8 -> one picture, row by row, on white; every pixel repeated `scale` times."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    picture = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        picture[top : top + height, left : left + width] = image
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def kept_grid(images: np.ndarray, captions: Sequence[str], columns: int) -> np.ndarray:
    """The grid that a run keeps, twice as large as small images are."""
    return captioned_grid(images, captions, columns, scale=2 if images.shape[2] < SMALL else 1)


def captioned_grid(images: np.ndarray, captions: Sequence[str], columns: int, scale: int = 1) -> np.ndarray:
    """The same with its caption under each image, cut to three lines, and tiles wide enough to read them.

    Without captions it is `image_grid`.
    """
    if not captions:
        return image_grid(images, columns, scale)
    scale = max(scale, -(-CAPTIONED_TILE // images.shape[2]))
    font = ImageFont.load_default(FONT_SIZE)
    tiles = []
    for image, caption in zip(images.repeat(scale, axis=1).repeat(scale, axis=2), captions, strict=True):
        height, width, _ = image.shape
        tile = Image.new("RGB", (width, height + LINES * LINE_HEIGHT + 4), "white")
        tile.paste(Image.fromarray(image))
        characters = max(1, int(width / font.getlength("n")))
        lines = textwrap.wrap(caption, characters, max_lines=LINES, placeholder="..")
        ImageDraw.Draw(tile).multiline_text((1, height + 1), "\n".join(lines), "black", font, spacing=2)
        tiles.append(np.asarray(tile))
    return image_grid(np.stack(tiles), columns, gap=6)


def write_png(picture: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) uint8 as PNG, atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
