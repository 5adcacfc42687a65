"""Samples during training: the grids that a run draws of the same prompts and seeds, at steps spread over its time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from experiments.files import reading
from experiments.pictures import GRID_ROWS
from reports.aggregate import Row, foremost, row_names, trainings
from reports.samples import png_uri

MARGIN = 12
HEAD = 28
FONT_SIZE = 16
COLOURS = 128
"""Of the palette that the picture is reduced to."""


def run_folders(rows: Sequence[Row], ranked_by: str) -> list[tuple[str, Path]]:
    """Name of every training that a measured row shows, and its folder (of the first seed); of very many the best.

    Args:
        ranked_by: quantity that says which these are.
    """
    found = trained(rows)
    names = row_names(found)
    return [(names[row], row.measured[0].run.folder) for row in foremost(found, ranked_by) if row.measured[0].run]


def trained(rows: Sequence[Row]) -> list[Row]:
    """The trainings that measured rows show."""
    return trainings([row for row in rows if row.measured and row.measured[0].run])


def stages_image(folders: Sequence[tuple[str, Path]], stages: int | Sequence[float]) -> Image.Image | None:
    """The first row of some of a run's grids, run below run; None without any.

    Args:
        stages: how many steps, first and last among them; or which, as shares of the last one.
    """
    lines = []
    for name, folder in folders:
        if found := sorted((folder / "samples").glob("step-*.png")):
            lines += [(f"{name}, step {_step(path)}", _first_row(path)) for path in _chosen(found, stages)]
    if not lines:
        return None
    width = max(image.width for _, image in lines) + 2 * MARGIN
    picture = Image.new("RGB", (width, sum(image.height + HEAD for _, image in lines)), "white")
    pen, font, y = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE), 0
    for title, image in lines:
        pen.text((MARGIN, y + HEAD / 2), title, "black", font, "lm")
        picture.paste(image, (MARGIN, y + HEAD))
        y += image.height + HEAD
    return picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=COLOURS)


def _chosen(grids: Sequence[Path], stages: int | Sequence[float]) -> list[Path]:
    """Of grids in the order of their steps those at the stages, or the nearest, each once."""
    if isinstance(stages, int):
        last = len(grids) - 1
        return [grids[i] for i in dict.fromkeys(round(i * last / max(1, stages - 1)) for i in range(stages))]
    end = _step(grids[-1])
    nearest = (min(grids, key=lambda grid: abs(_step(grid) - share * end)) for share in stages)
    return list(dict.fromkeys(nearest))


def _first_row(grid: Path) -> Image.Image:
    """Of a run on captions these are held-out ones. Raises UserError where the file is damaged."""
    with reading(grid, "remove it to leave this picture out"), Image.open(grid) as file:
        image = file.convert("RGB")
    return image.crop((0, 0, image.width, image.height // GRID_ROWS))


def as_svg(picture: Image.Image) -> str:
    """The picture inside an SVG, as the page takes its figures."""
    width, height = picture.size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<image width="{width}" height="{height}" href="{png_uri(picture)}"/></svg>'
    )


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
