"""Samples during training: the grids that a run draws of the same prompts and seeds, at steps spread over its time."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from experiments.pictures import GRID_ROWS
from reports.aggregate import Row, row_name, trainings

MARGIN = 12
HEAD = 28
FONT_SIZE = 16
COLOURS = 128
"""Of the palette that the picture is reduced to."""


def run_folders(rows: Sequence[Row]) -> list[tuple[str, Path]]:
    """Name of every training that a measured row shows, and its folder (of the first seed)."""
    found = trainings([row for row in rows if row.measured and row.measured[0].run])
    return [(row_name(row, found), row.measured[0].run.folder) for row in found if row.measured[0].run]


def stages_image(folders: Sequence[tuple[str, Path]], count: int) -> Image.Image | None:
    """The first row of a run's grids at `count` steps, first and last among them, run below run; None without any."""
    lines = []
    for name, folder in folders:
        if found := sorted((folder / "samples").glob("step-*.png")):
            last = len(found) - 1
            chosen = dict.fromkeys(round(i * last / max(1, count - 1)) for i in range(count))
            lines += [(f"{name}, step {_step(found[i])}", _first_row(found[i])) for i in chosen]
    if count < 1 or not lines:
        return None
    width = max(image.width for _, image in lines) + 2 * MARGIN
    picture = Image.new("RGB", (width, sum(image.height + HEAD for _, image in lines)), "white")
    pen, font, y = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE), 0
    for title, image in lines:
        pen.text((MARGIN, y + HEAD / 2), title, "black", font, "lm")
        picture.paste(image, (MARGIN, y + HEAD))
        y += image.height + HEAD
    return picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=COLOURS)


def _first_row(grid: Path) -> Image.Image:
    """Of a run on captions these are held-out ones."""
    image = Image.open(grid).convert("RGB")
    return image.crop((0, 0, image.width, image.height // GRID_ROWS))


def as_svg(picture: Image.Image) -> str:
    """The picture inside an SVG, as the page takes its figures."""
    data = io.BytesIO()
    picture.save(data, "png", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    width, height = picture.size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<image width="{width}" height="{height}" href="{source}"/></svg>'
    )


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
