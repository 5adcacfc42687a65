"""Samples during training: the grids that a run draws of the same prompts and seeds, at steps spread over its time."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from reports.aggregate import Row, row_name, trainings

MARGIN = 12
HEAD = 28
COLOURS = 128
"""Of the palette that the picture is reduced to."""


def run_folders(rows: Sequence[Row]) -> list[tuple[str, Path]]:
    """Name of every training that a measured row shows, and its folder (of the first seed)."""
    found = trainings([row for row in rows if row.measured and row.measured[0].run])
    return [(row_name(row, found), row.measured[0].run.folder) for row in found if row.measured[0].run]


def stages_image(folders: Sequence[tuple[str, Path]], count: int) -> Image.Image | None:
    """One line per run with its grids of `count` steps, first and last among them; None where there are none."""
    lines = []
    for name, folder in folders:
        if found := sorted((folder / "samples").glob("step-*.png")):
            last = len(found) - 1
            chosen = dict.fromkeys(round(i * last / max(1, count - 1)) for i in range(count))
            lines.append([(f"{name}, step {_step(found[i])}", Image.open(found[i]).convert("RGB")) for i in chosen])
    if count < 1 or not lines:
        return None
    width, height = (max(image.size[side] for line in lines for _, image in line) for side in (0, 1))
    columns = max(len(line) for line in lines)
    size = (columns * (width + MARGIN) + MARGIN, len(lines) * (height + HEAD + MARGIN))
    picture, font = Image.new("RGB", size, "white"), ImageFont.load_default(18)
    pen = ImageDraw.Draw(picture)
    for i, line in enumerate(lines):
        for j, (title, image) in enumerate(line):
            x, y = MARGIN + j * (width + MARGIN), i * (height + HEAD + MARGIN)
            pen.text((x, y + HEAD / 2), title, "black", font, "lm")
            picture.paste(image, (x, y + HEAD))
    return picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=COLOURS)


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
