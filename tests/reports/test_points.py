"""Scatter plots and Pareto fronts: which rows stand on a front or move a fit, and where their names stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reports.aggregate import Row
from reports.captions import caption
from reports.figures import draw
from reports.layout import Figure
from reports.records import Record
from tests.reports import fakes


def test_the_pareto_front_holds_only_what_nothing_beats(tmp_path: Path) -> None:
    sizes = {"group_v1": 1_000_000, "group_v2": 2_000_000, "serial_v1": 3_000_000, "serial_v2": 4_000_000}
    for cell in fakes.cells_of():
        scheme = cell.labels["hybrid_scheme"]
        fakes.write_run(tmp_path, cell, fakes.FD[scheme], run__parameters=sizes[scheme])
    figure, rows = Figure("pareto", "fd_efflite0", "parameters"), fakes.subject(tmp_path).rows
    drawing = draw(figure, rows)
    assert drawing is not None and "no row beats one on it" in caption(figure, rows)
    front = drawing.axes[0].lines[-1]
    assert list(front.get_xdata()) == [1, 3, 4] and list(front.get_ydata()) == [131, 124, 112]


def test_more_may_be_better_on_both_axes_of_a_front(tmp_path: Path) -> None:
    measured = {"group_v1": (0.5, 0.4), "group_v2": (0.6, 0.2), "serial_v1": (0.3, 0.3), "serial_v2": (0.2, 0.5)}
    for cell in fakes.cells_of():
        precision, recall = measured[cell.labels["hybrid_scheme"]]
        found = {"evaluation__metrics__precision": precision, "evaluation__metrics__recall": recall}
        fakes.write_run(tmp_path, cell, **found)
    drawing = draw(Figure("pareto", "recall", "precision"), fakes.subject(tmp_path).rows)
    assert drawing is not None
    front = drawing.axes[0].lines[-1]
    assert np.allclose(front.get_xdata(), [60, 50, 20]) and np.allclose(front.get_ydata(), [20, 40, 50])


@pytest.mark.parametrize("kind", ["scatter", "pareto"])
def test_a_row_that_is_not_comparable_is_hollow_and_moves_neither_front_nor_fit(tmp_path: Path, kind: str) -> None:
    for number, cell in enumerate(fakes.cells_of()):
        odd = {"evaluation__protocol__num_samples": 64} if number == 3 else {}
        fakes.write_run(tmp_path, cell, (150.0, 130.0, 140.0, 90.0)[number], **odd)
    figure = Figure(kind, "fd_efflite0", "parameters", fit=kind == "scatter")  # type: ignore[arg-type]
    rows = fakes.subject(tmp_path).rows
    drawing = draw(figure, rows)
    assert drawing is not None and "Hollow: measured in another way" in caption(figure, rows)
    lines = drawing.axes[0].lines
    assert [line.get_fillstyle() for line in lines if line.get_marker() not in ("None", None)].count("none") == 1
    assert 90.0 not in lines[-1].get_ydata()
    alone = draw(figure, [row for row in rows if not row.flags])
    assert alone is not None and list(alone.axes[0].lines[-1].get_ydata()) == list(lines[-1].get_ydata())


def test_times_of_separate_runs_have_no_front(tmp_path: Path) -> None:
    figure, rows = Figure("pareto", "fd_efflite0", "seconds_per_image"), fakes.finished(tmp_path).rows
    drawing = draw(figure, rows)
    assert drawing is not None and all(len(line.get_xdata()) == 1 for line in drawing.axes[0].lines)
    assert "runs have no front" in caption(figure, rows) and "Pareto front of" not in caption(figure, rows)


def test_a_fit_is_a_line_for_each_colour_straight_on_the_axes_as_drawn(tmp_path: Path) -> None:
    cells = [fakes.cell_of({"model": model, "size": size}) for model in "ab" for size in ("1", "2", "3")]
    for number, cell in enumerate(cells):
        size = 10 ** int(cell.labels["size"])
        fakes.write_run(tmp_path, cell, 100.0 - number, run__parameters=size * 1_000_000)
    report = {"rows": ["model", "size"], "columns": ["fd_efflite0"]}
    rows = fakes.subject(tmp_path, cells, axes={"model": ["a", "b"], "size": ["1", "2", "3"]}, report=report).rows
    figure = Figure("scatter", "fd_efflite0", "parameters", colour="model", marker="size", fit=True, log="x")
    drawing = draw(figure, rows)
    assert drawing is not None
    fits = {line.get_label(): line for line in drawing.axes[0].lines if line.get_linestyle() == "--"}
    assert list(fits) == ["a, r = -1.000", "b, r = -1.000"], "falls by one for ten times the parameters"
    assert [list(line.get_ydata()) for line in fits.values()] == [
        [pytest.approx(100), pytest.approx(98)],
        [pytest.approx(97), pytest.approx(95)],
    ]
    assert "r, over the logarithm of x." in caption(figure, rows)


def test_a_fit_on_logarithmic_axes_is_a_power_law() -> None:
    """The distance falls to a quarter for ten times the parameters."""
    rows = [
        Row({"size": name}, (Record(name, {"size": name}, {}, 0, "r", "e", {"parameters": x, "fid": y}),))
        for name, x, y in (("s", 1e6, 64.0), ("m", 1e7, 16.0), ("l", 1e8, 4.0))
    ]
    figure = Figure("scatter", "fid", "parameters", fit=True, log="xy")
    drawing = draw(figure, rows)
    assert drawing is not None
    (fit,) = (line for line in drawing.axes[0].lines if line.get_linestyle() == "--")
    assert fit.get_label() == "r = -1.000" and list(fit.get_ydata()) == [pytest.approx(64), pytest.approx(4)]
    assert "r, of the logarithm of y over the logarithm of x." in caption(figure, rows)


def test_what_has_no_logarithm_is_left_out_and_named() -> None:
    pairs = {"none": 0.0, "one": 1.0, "two": 2.0, "four": 4.0}
    rows = [
        Row({"size": name}, (Record(name, {"size": name}, {}, 0, "r", "e", {"parameters": x, "fid": 9.0 - x}),))
        for name, x in pairs.items()
    ]
    figure = Figure("scatter", "fid", "parameters", fit=True, log="x")
    drawing = draw(figure, rows)
    assert drawing is not None and "r = -0.98" in drawing.axes[0].get_legend().get_texts()[0].get_text()
    assert "Left out, as 0 and less have no logarithm: size none." in caption(figure, rows)
    linear = replace(figure, log="")
    assert draw(linear, rows) is not None and "Left out" not in caption(linear, rows)


def test_names_of_close_points_do_not_overlap() -> None:
    names = [f"a rather long name {n}" for n in range(6)]
    metrics = [{"fd_efflite0": 100.0 + n, "seconds_per_image": 1 + 0.001 * n} for n in range(6)]
    records = [
        Record(name, {"scheme": name}, {}, 0, name, "e", metrics=m) for name, m in zip(names, metrics, strict=True)
    ]
    rows = [Row({"scheme": record.cell}, (record,)) for record in records]
    drawing = draw(Figure("scatter", "fd_efflite0", "seconds_per_image"), rows)
    assert drawing is not None
    boxes = [text.get_window_extent() for text in drawing.axes[0].texts]
    assert len(boxes) == 6 and all(box.x1 <= drawing.bbox.x1 for box in boxes)
    assert not any(box.overlaps(other) for n, box in enumerate(boxes) for other in boxes[:n])
