"""Sweeps with an axis that only some rows have (`when`): their reports are whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reports.aggregate import select, trainings
from reports.build import build
from reports.figures import draw
from reports.layout import Figure
from reports.one_factor import baseline_of
from reports.subject import Subject
from tests.reports import fakes

AXES = {"sampler": ("maskgit", "halton"), "temperature": ("1", "2")}
ROWS = (*({"sampler": "maskgit", "temperature": label} for label in AXES["temperature"]), {"sampler": "halton"})
FIGURES = [
    {"kind": "bars", "y": "fd_efflite0"},
    {"kind": "curves", "y": "train/loss"},
    {"kind": "lines", "x": "temperature", "y": "fd_efflite0"},
    {"kind": "scatter", "x": "parameters", "y": "fd_efflite0", "colour": "temperature"},
    {"kind": "pareto", "x": "parameters", "y": "fd_efflite0", "panels": "temperature"},
]


def sampled(root: Path, baseline: dict[str, str], one_training: bool = False) -> Subject:
    """Three ways to sample, of one training a seed or of one each."""
    cells = [fakes.cell_of(labels, seed, {"sampler.name": labels["sampler"]}) for labels in ROWS for seed in (0, 1, 2)]
    if one_training:
        cells = [replace(cell, run_id=f"run-s{cell.seed}", group=f"run-s{cell.seed}") for cell in cells]
    for place, cell in enumerate(cells):
        fakes.write_run(root, cell, 100.0 + place // 3 * 10 + cell.seed)
    columns = [{"metric": "fd_efflite0", "best": "lower"}]
    report = {"rows": list(AXES), "columns": columns, "baseline": baseline, "figure": FIGURES, "samples": 0}
    declared = ["sampler.name", "sampler.temperature"]
    return fakes.subject(root, cells, report=report, axes=AXES, declared=declared)


@pytest.mark.parametrize(
    ("baseline", "one_training"),
    [({}, False), ({}, True), (ROWS[1], False), (ROWS[2], True), ({"sampler": "maskgit"}, True)],
    ids=str,
)
def test_a_report_is_whole(tmp_path: Path, baseline: dict[str, str], one_training: bool) -> None:
    subject = sampled(tmp_path, baseline, one_training)
    build(subject, tmp_path / "report")
    assert [line.entries[2].rank for line in subject.table.rows] == ["best", "second", ""]


def test_rows_of_one_training_keep_the_labels_that_all_have(tmp_path: Path) -> None:
    (row,) = trainings(sampled(tmp_path, {}, one_training=True).rows)
    assert row.labels == {}
    assert [dict(row.labels) for row in trainings(sampled(tmp_path / "each", {}).rows)] == list(ROWS)


def test_a_baseline_is_one_row(tmp_path: Path) -> None:
    rows = sampled(tmp_path, {}).rows
    found = [baseline_of(row, rows, {"sampler": "maskgit"}) for row in rows]
    assert found == [rows[0], rows[1], None]  # which of its temperatures should halton be held against?


def test_rows_without_the_axis_of_the_panels_have_one_of_their_own(tmp_path: Path) -> None:
    rows = sampled(tmp_path, {}).rows
    drawing = draw(Figure("scatter", "fd_efflite0", "parameters", panels="temperature"), rows)
    assert drawing is not None
    points = [[bar.lines[0].get_ydata()[0] for bar in axes.containers] for axes in drawing.axes]
    assert [axes.get_title("left") for axes in drawing.axes] == [f"Temperature: {label}" for label in "12–"]
    own = [[row.value("fd_efflite0").mean for row in select(rows, labels)] for labels in ROWS]
    assert points == own
