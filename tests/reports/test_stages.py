"""Samples during training: which steps are shown, and that all of their grids are on the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from experiments.errors import UserError
from reports.stages import as_svg, stages_image


def _run(folder: Path, colours: list[str]) -> Path:
    (folder / "samples").mkdir(parents=True)
    for i, colour in enumerate(colours, start=1):
        grid = Image.new("RGB", (40, 80), "magenta")  # what is not of the first row is not shown
        grid.paste(colour, (0, 0, 40, 20))
        grid.save(folder / "samples" / f"step-{i * 100:06d}.png")
    return folder


@pytest.mark.parametrize(
    ("stages", "shown"),
    [
        (3, {"red", "lime", "blue"}),
        (2, {"red", "blue"}),
        (1, {"red"}),
        (9, None),
        ((0.01, 0.83, 1.0), {"red", "cyan", "blue"}),
        ((0.35, 0.45), {"yellow"}),
    ],
)
def test_the_steps_that_are_asked_for(tmp_path: Path, stages: int | tuple[float, ...], shown: set[str] | None) -> None:
    colours = ["red", "yellow", "lime", "cyan", "blue"]
    folders = [("a", _run(tmp_path / "a", colours)), ("b", tmp_path / "not run")]
    picture = stages_image(folders, stages)
    assert picture is not None
    rgb = picture.convert("RGB")
    names = {
        "red": (255, 0, 0),
        "yellow": (255, 255, 0),
        "lime": (0, 255, 0),
        "cyan": (0, 255, 255),
        "blue": (0, 0, 255),
    }
    found = {name for name, colour in names.items() if colour in {c for _, c in rgb.getcolors(1 << 24)}}
    assert found == (set(colours) if shown is None else shown)
    assert (255, 0, 255) not in {c for _, c in rgb.getcolors(1 << 24)}
    assert as_svg(picture).startswith("<svg") and "base64" in as_svg(picture)


@pytest.mark.parametrize("left", [0, 20, 100])
def test_a_damaged_grid_is_one_sentence(tmp_path: Path, left: int) -> None:
    folder = _run(tmp_path / "a", ["red", "blue"])
    grid = sorted((folder / "samples").glob("step-*.png"))[0]
    grid.write_bytes(grid.read_bytes()[:left])
    with pytest.raises(UserError, match=f"Cannot read {grid} .*; remove it to leave this picture out"):
        stages_image([("a", folder)], 2)


def test_runs_without_grids_give_no_picture(tmp_path: Path) -> None:
    assert stages_image([("a", tmp_path)], 3) is None
    assert stages_image([("a", _run(tmp_path / "a", ["red"]))], 0) is None
