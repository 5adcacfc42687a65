"""Figures: each kind draws what it should, and nothing where there is nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reports.aggregate import Row, row_name, trainings
from reports.captions import caption
from reports.figures import draw, floors
from reports.layout import Figure
from reports.records import Record
from reports.style import GRID, IN_THE_DARK, PALETTE, save, to_svg
from tests.reports import fakes

FIGURES = [
    Figure("bars", "fd_efflite0"),
    Figure("curves", "train/loss"),
    Figure("lines", "fd_efflite0", "hybrid_scheme"),
    Figure("scatter", "fd_efflite0", "seconds_per_image", fit=True),
    Figure("pareto", "fd_efflite0", "parameters", log="x"),
]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.kind)
def test_every_kind_draws_for_light_and_dark_screens(tmp_path: Path, figure: Figure) -> None:
    rows = fakes.finished(tmp_path, (0, 1)).rows
    drawing = draw(figure, rows)
    assert drawing is not None
    svg = to_svg(drawing)
    assert f"stroke: {GRID}" in svg and f'[style*="stroke: {GRID}"]{{stroke:{IN_THE_DARK[GRID]} !important}}' in svg
    assert not re.search(r' d="[^"]*\.\d{3}', svg)
    save(drawing, tmp_path / figure.name)
    first = (tmp_path / f"{figure.name}.png").read_bytes(), (tmp_path / f"{figure.name}.pdf").read_bytes()
    again = draw(figure, rows)
    assert again is not None
    save(again, tmp_path / figure.name)
    assert first == ((tmp_path / f"{figure.name}.png").read_bytes(), (tmp_path / f"{figure.name}.pdf").read_bytes())


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.kind)
def test_nothing_measured_is_no_figure(tmp_path: Path, figure: Figure) -> None:
    assert draw(figure, fakes.subject(tmp_path).rows) is None


def test_bars_show_every_row_the_floor_and_the_reason_of_a_gap(tmp_path: Path) -> None:
    fakes.write_run(tmp_path, fakes.cells_of()[0], 120.0)
    rows = fakes.subject(tmp_path).rows
    drawing = draw(Figure("bars", "fd_efflite0"), rows)
    assert drawing is not None
    axes = drawing.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(fakes.SCHEMES)
    assert [text.get_text() for text in axes.texts].count("not run") == 3
    assert floors(rows, "fd_efflite0") == [41.5] and "41.5" in axes.get_xlabel()


def test_floors_of_single_bars_are_drawn_across_them_alone(tmp_path: Path) -> None:
    for cell, floor in zip(fakes.cells_of(), (41.5, 390.0, 390.0, None), strict=True):
        fakes.write_run(tmp_path, cell, 400.0, evaluation__protocol__floor={"fd_efflite0": floor} if floor else {})
    drawing = draw(Figure("bars", "fd_efflite0"), fakes.subject(tmp_path).rows)
    assert drawing is not None
    lines = [np.array(line.vertices) for drawn in drawing.axes[0].collections for line in drawn.get_paths()]
    assert np.allclose([line[:, 0] for line in lines], [[41.5] * 2, [390.0] * 2, [390.0] * 2])
    assert np.allclose([line[:, 1] for line in lines], [[-0.4, 0.4], [0.6, 1.4], [1.6, 2.4]])
    assert "41.5 to 390.0" in drawing.axes[0].get_xlabel()


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.kind)
@pytest.mark.parametrize("count", [3, 10])
def test_long_names_leave_room_for_what_is_drawn(tmp_path: Path, figure: Figure, count: int) -> None:
    labels = [f"{number} $x^{{2$ {'word ' * 16}" for number in range(count)]
    cells = [replace(fakes.cell_of({"width": label}), run_id=f"run-{i}") for i, label in enumerate(labels)]
    for number, cell in enumerate(cells):
        fakes.write_run(tmp_path, cell, 100.0 + number, run__parameters=1000 * (number + 1))
    report = {"rows": "width", "columns": ["fd_efflite0"]}
    figure = replace(figure, x="width") if figure.kind == "lines" else figure
    drawing = draw(figure, fakes.subject(tmp_path, cells, report=report, axes={"width": labels}).rows)
    assert drawing is not None
    box, tight = drawing.axes[0].get_window_extent(), drawing.get_tightbbox()
    assert box.width > 0.5 * drawing.bbox.width and box.height > 1.2 * drawing.dpi
    width, height = drawing.get_size_inches()
    assert min(tight.x0, tight.y0) > -0.05 and tight.x1 < width + 0.05 and tight.y1 < height + 0.05


@pytest.mark.parametrize("figure", [FIGURES[0], FIGURES[2], FIGURES[3]], ids=lambda figure: figure.kind)
def test_error_bars_and_bands_reach_to_the_ends_of_the_interval(tmp_path: Path, figure: Figure) -> None:
    """Of a share of 0 it begins there, and the interval of a median may reach further to one side."""
    for cell in fakes.cells_of():
        ends = {"evaluation__metrics__fd_efflite0_low": 100.0, "evaluation__metrics__fd_efflite0_high": 160.0}
        fakes.write_run(tmp_path, cell, 100.0, **ends)
    drawing = draw(figure, fakes.subject(tmp_path).rows)
    assert drawing is not None
    across = 0 if figure.kind == "bars" else 1
    drawn = [np.array(path.vertices)[:, across] for item in drawing.axes[0].collections for path in item.get_paths()]
    ends = [(values.min(), values.max()) for values in drawn if len(np.unique(values)) > 1]
    assert ends and set(ends) == {(100.0, 160.0)}


@pytest.mark.parametrize("kind", ["curves", "lines", "scatter"])
@pytest.mark.parametrize("count", [12, 30])
def test_many_rows_have_looks_of_their_own_and_all_stand_in_the_legend(tmp_path: Path, kind: str, count: int) -> None:
    cells = [fakes.cell_of({"width": f"w{i}", "steps": steps}) for i in range(count) for steps in ("5", "20")]
    for cell in cells:
        fakes.write_run(tmp_path, cell, 100.0 + int(cell.labels["width"][1:]), run__parameters=1000)
    axes = {"width": [f"w{i}" for i in range(count)], "steps": ["5", "20"]}
    subject = fakes.subject(tmp_path, cells, axes=axes, report={"rows": ["width", "steps"], "columns": ["fd_efflite0"]})
    figures = {
        "curves": Figure("curves", "train/loss", where={"steps": ("5",)}),
        "lines": Figure("lines", "fd_efflite0", "steps"),
        "scatter": Figure("scatter", "fd_efflite0", "seconds_per_image", where={"steps": ("5",)}),
    }
    drawing = draw(figures[kind], subject.rows)
    assert drawing is not None
    legend = drawing.legends[0] if drawing.legends else drawing.axes[0].get_legend()
    assert legend is not None
    looks = {(str(h.get_color()), str(h.get_marker()), str(h.get_linestyle())) for h in legend.legend_handles}
    assert len(looks) == count == len(legend.get_texts())
    box, whole = legend.get_window_extent(), drawing.bbox
    assert box.y0 >= whole.y0 - 1 and box.y1 <= whole.y1 + 1 and box.x1 <= whole.x1 + 1


SIGHT = {
    "all": np.eye(3),
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
"""Linear RGB as it looks to the colour-blind (Machado, Oliveira and Fernandes 2009, severity 1)."""
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
WHITE = [0.95047, 1.0, 1.08883]


@pytest.mark.parametrize("sight", SIGHT)
def test_colour_blind_readers_tell_the_colours_apart(sight: str) -> None:
    """By their distances in CIELAB, in which 2 is hardly seen."""

    def lab(colour: str) -> np.ndarray:
        part = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        x, y, z = np.cbrt(XYZ @ np.clip(SIGHT[sight] @ linear, 0, 1) / WHITE)
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    seen = [lab(colour) for colour in PALETTE]
    assert min(float(np.linalg.norm(a - b)) for i, a in enumerate(seen) for b in seen[:i]) > 15


def test_a_legend_leaves_out_what_is_not_drawn(tmp_path: Path) -> None:
    for cell in fakes.cells_of()[:3]:
        fakes.write_run(tmp_path, cell)
    figure = Figure("scatter", "fd_efflite0", "seconds_per_image", colour="hybrid_scheme", marker="hybrid_scheme")
    drawing = draw(figure, fakes.subject(tmp_path).rows)
    assert drawing is not None
    legend = drawing.axes[0].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == list(fakes.SCHEMES[:3])


def test_a_curve_of_several_seeds_has_a_band(tmp_path: Path) -> None:
    one = draw(Figure("curves", "train/loss"), fakes.finished(tmp_path / "a").rows)
    several = draw(Figure("curves", "train/loss"), fakes.finished(tmp_path / "b", (0, 1)).rows)
    assert one is not None and several is not None
    assert (len(one.axes[0].collections), len(several.axes[0].collections)) == (0, 4)


def test_numeric_axes_are_drawn_to_scale(tmp_path: Path) -> None:
    cells = [fakes.cell_of({"steps": steps}) for steps in ("5", "20", "10")]
    for cell in cells:
        fakes.write_run(tmp_path, cell)
    subject = fakes.subject(
        tmp_path, cells, axes={"steps": ["5", "20", "10"]}, report={"rows": "steps", "columns": ["fd_efflite0"]}
    )
    drawing = draw(Figure("lines", "fd_efflite0", "steps"), subject.rows)
    assert drawing is not None
    assert list(drawing.axes[0].lines[0].get_xdata()) == [5, 10, 20]


def test_a_figure_of_some_labels_has_no_other_rows_and_a_line_needs_two_places(tmp_path: Path) -> None:
    cells = [fakes.cell_of({"size": size, "steps": steps}) for size in "abc" for steps in ("5", "20")]
    for cell in cells:
        fakes.write_run(tmp_path, cell)
    axes = {"size": ["a", "b", "c"], "steps": ["5", "20"]}
    rows = fakes.subject(
        tmp_path, cells, axes=axes, report={"rows": ["size", "steps"], "columns": ["fd_efflite0"]}
    ).rows
    figure = Figure("lines", "fd_efflite0", "steps", where={"size": ("a", "c")})
    drawing = draw(figure, rows)
    assert drawing is not None and [line.get_label() for line in drawing.axes[0].lines] == ["a", "c"]
    assert caption(figure, rows).startswith("FD-EffLite0 over steps, a or c.")
    assert figure.name == "lines_fd_efflite0_steps_size_a_c"
    assert draw(replace(figure, where={"steps": ("5",)}), rows) is None


def test_the_bar_of_a_row_that_is_not_comparable_is_hollow(tmp_path: Path) -> None:
    for number, cell in enumerate(fakes.cells_of()):
        fakes.write_run(tmp_path, cell, **({"evaluation__protocol__num_samples": 64} if number == 3 else {}))
    rows = fakes.subject(tmp_path).rows
    for metric, filled in (("fd_efflite0", [True, True, True, False]), ("parameters", [True] * 4)):
        drawing = draw(Figure("bars", metric), rows)
        assert drawing is not None and [bar.get_fill() for bar in drawing.axes[0].patches] == filled
        assert ("Hollow: " in caption(Figure("bars", metric), rows)) is not all(filled)


def test_a_figure_may_give_its_quantity_another_name(tmp_path: Path) -> None:
    drawing = draw(Figure("curves", "train/loss", label="Error (sq)"), fakes.finished(tmp_path).rows)
    assert drawing is not None
    axes = drawing.axes[0]
    assert axes.get_ylabel() == "Error (sq)" and axes.get_title(loc="left") == "Error while training"


# --- one figure, many rows --------------------------------------------------------------------------------------------


def _grid(root: Path, guidances: Sequence[str], steps: Sequence[str]) -> list[Row]:
    """Rows that differ in sampling alone."""
    cells = [fakes.cell_of({"guidance": g, "steps": s}) for g in guidances for s in steps]
    trained = replace(cells[0], run_id="fake-one", group="fake-one")
    cells = [replace(cell, run_id=trained.run_id, group=trained.group) for cell in cells]
    for number, cell in enumerate(cells):
        fakes.write_run(root, cell, 100.0 + number, evaluation__metrics__seconds_per_image=0.01 * (number + 1))
    axes = {"guidance": guidances, "steps": steps}
    report = {"rows": ["guidance", "steps"], "columns": ["fd_efflite0"]}
    return fakes.subject(root, cells, axes=axes, report=report, declared=[]).rows


def test_a_training_shared_by_rows_is_one_curve_without_a_legend(tmp_path: Path) -> None:
    drawing = draw(Figure("curves", "train/loss"), _grid(tmp_path, ("1", "3"), ("5", "10")))
    assert drawing is not None
    assert len(drawing.axes[0].lines) == 1 and drawing.axes[0].get_legend() is None


def test_a_crowd_is_told_apart_by_its_axes_and_the_front_by_name(tmp_path: Path) -> None:
    rows = _grid(tmp_path, ("1", "2", "3"), ("5", "10", "20"))
    figure = Figure("pareto", "fd_efflite0", "peak_memory_bytes")
    drawing = draw(figure, rows)
    assert drawing is not None
    legend = drawing.axes[0].get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["guidance 1", "guidance 2", "guidance 3", "steps 5", "steps 10", "steps 20"]
    assert [text.get_text() for text in drawing.axes[0].texts] == ["guidance 1 · steps 5"]
    assert "its rows are named" in caption(figure, rows)


def test_panels_share_one_legend_of_colours_and_markers(tmp_path: Path) -> None:
    rows = _grid(tmp_path, ("1", "2", "3"), ("5", "10"))
    figure = Figure(
        "pareto",
        "fd_efflite0",
        "seconds_per_image",
        beside=("parameters",),
        panels="steps",
        colour="guidance",
        marker="steps",
    )
    drawing = draw(figure, rows)
    assert drawing is not None and len(drawing.axes) == 4 and len(drawing.legends) == 1
    assert [axes.get_title("left") for axes in drawing.axes[::2]] == ["Steps: 5", "Steps: 10"]
    assert [axes.get_xlabel() for axes in drawing.axes] == ["", "", "Time per image (ms) ↓", "Parameters (M)"]
    names = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert names == ["guidance 1", "guidance 2", "guidance 3", "steps 5", "steps 10"]
    across = [float(line.get_xdata()[0]) for line in drawing.axes[2].lines if line.get_marker() in "os"]
    assert across == [20, 40, 60], "the panel of 10 steps holds its rows alone"
    assert "join rows of one guidance, which differ in steps" in caption(figure, rows)


@pytest.mark.parametrize(
    ("figure", "seeds", "said"),
    [
        (Figure("bars", "fd_efflite0"), (0, 1), "standard deviation over seeds"),
        (Figure("bars", "kid_efflite0"), (0,), "over subsets"),
        (Figure("curves", "train/loss"), (0, 1), "(up to 2 seeds)"),
        (Figure("scatter", "fd_efflite0", "parameters", fit=True), (0,), "least squares"),
    ],
)
def test_a_caption_says_what_the_marks_mean(tmp_path: Path, figure: Figure, seeds: tuple[int, ...], said: str) -> None:
    assert said in caption(figure, fakes.finished(tmp_path, seeds).rows)


def test_rows_of_one_training_share_a_name_and_others_keep_theirs(tmp_path: Path) -> None:
    rows = fakes.finished(tmp_path).rows
    merged = Row(rows[0].labels, rows[1].records)
    found = trainings([merged, *rows[1:]])
    assert [row_name(row, found) for row in found] == ["group_v1 + group_v2", "serial_v1", "serial_v2"]


def test_lines_do_not_join_what_another_axis_tells_apart(tmp_path: Path) -> None:
    cells = [fakes.cell_of({"work": w, "steps": s, "model": "a"}) for w in ("train", "sample") for s in ("5", "80")]
    for cell in cells:
        fakes.write_run(tmp_path, cell)
    axes = {"work": ["train", "sample"], "steps": ["5", "80"], "model": ["a"]}
    report = {"rows": ["work", "steps", "model"], "columns": ["fd_efflite0"]}
    rows = fakes.subject(tmp_path, cells, axes=axes, report=report).rows
    drawing = draw(Figure("lines", "fd_efflite0", "steps", log="xy"), rows)
    assert drawing is not None
    axes_drawn = drawing.axes[0]
    assert [line.get_label() for line in axes_drawn.lines] == ["train", "sample"]
    assert [label.get_text() for label in axes_drawn.get_xticklabels()] == ["5", "80"]
    assert not any("10^" in label.get_text() for label in axes_drawn.get_yticklabels())


def test_a_long_reason_leaves_room_for_the_bars() -> None:
    long = "failed: a file in a folder deep down is damaged; remove it and run the same command again " * 3
    rows = [
        Row({"scheme": "a"}, (Record("a", {"scheme": "a"}, {}, 0, "r", "e", metrics={"fd_efflite0": 3.0}),)),
        Row({"scheme": "b"}, (Record("b", {"scheme": "b"}, {}, 0, "r", "e", reason=long),)),
    ]
    drawing = draw(Figure("bars", "fd_efflite0"), rows)
    assert drawing is not None
    notes = [text.get_text() for text in drawing.axes[0].texts]
    assert any(note.startswith("failed") for note in notes) and max(map(len, notes)) <= 48


def test_a_caption_names_both_kinds_of_error_bars_where_seeds_are_missing(tmp_path: Path) -> None:
    cells = [cell for cell in fakes.cells_of((0, 1, 2)) if cell.seed == 0 or cell.labels["hybrid_scheme"] != "group_v1"]
    for cell in cells:
        fakes.write_run(tmp_path, cell, 100.0 + cell.seed)
    said = caption(Figure("bars", "kid_efflite0"), fakes.subject(tmp_path, fakes.cells_of((0, 1, 2))).rows)
    assert "one standard deviation over seeds; of rows with one seed, 1.96 standard deviations over subsets" in said
