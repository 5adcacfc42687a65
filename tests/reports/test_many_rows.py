"""Sweeps of very many cells: work grows with their number, not with its square, and pictures show those that count."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.store import Evaluation, Run
from reports.aggregate import SHOWN, Row, foremost, row_names, trainings
from reports.captions import caption
from reports.figures import MOST, draw
from reports.layout import Column, Figure, Layout
from reports.one_factor import one_factor
from reports.points import draw_points
from reports.ranking import tie_notes
from reports.records import Record
from reports.samples import collect_samples
from reports.style import style

FD = Column("fd_efflite0", "FD", "lower", ".1f", 1.0)


class Counted(dict[str, str]):
    """Labels that count how often they are read."""

    reads = 0

    def get(self, *args: Any) -> Any:
        Counted.reads += 1
        return super().get(*args)

    def __getitem__(self, key: str) -> str:
        Counted.reads += 1
        return super().__getitem__(key)


def rows_of(count: int, **more: Any) -> list[Row]:
    """Rows of one run each, the last one the best."""
    result = []
    for place in range(count):
        labels, metrics = Counted(lr=str(place), decay=str(place % 7)), {"fd_efflite0": 900.0 - place}
        record = Record(str(place), labels, {}, 0, f"run-{place}", "e", metrics, **more)
        result.append(Row(labels, (record,)))
    return result


def _scattered(rows: Sequence[Row]) -> None:
    with style() as plt:
        draw_points(plt, Figure("scatter", "fd_efflite0", "fd_efflite0"), rows)


@pytest.mark.parametrize(
    "work",
    [
        row_names,
        trainings,
        lambda rows: one_factor(rows, {"lr": "3", "decay": "3"}),
        lambda rows: tie_notes(Layout(("lr", "decay"), (FD,), baseline={"lr": "3", "decay": "3"}), rows),
        _scattered,
    ],
    ids=["names", "trainings", "one_factor", "ties", "scatter"],
)
def test_labels_are_read_in_proportion_to_the_rows(work: Callable[[Sequence[Row]], Any]) -> None:
    reads = []
    for count in (50, 100):
        rows, Counted.reads = rows_of(count), 0
        work(rows)
        reads.append(Counted.reads)
    assert reads[1] <= 2.2 * reads[0]


def test_of_very_many_rows_the_best_have_bars_and_the_caption_says_so() -> None:
    rows, figure = rows_of(3 * SHOWN), Figure("bars", "fd_efflite0")
    drawing = draw(figure, rows)
    assert drawing is not None
    names = [label.get_text() for label in drawing.axes[0].get_yticklabels()]
    assert names == [f"lr {place} · decay {place % 7}" for place in range(2 * SHOWN, 3 * SHOWN)]
    assert f"Of {3 * SHOWN} rows the {SHOWN} best by FD-EffLite0 are shown" in caption(figure, rows)
    assert foremost(rows[:SHOWN], "fd_efflite0") == rows[:SHOWN]
    assert foremost(rows, "no_such") == rows[:SHOWN]


def test_long_curves_are_drawn_with_fewer_points(tmp_path: Path) -> None:
    run = Run(tmp_path)
    lines = [json.dumps({"step": step, "train/loss": 5.0 - step / 4000}) for step in range(1, 2 * MOST + 2)]
    run.metrics_path.write_text("\n".join(lines))
    rows, figure = rows_of(1, run=run), Figure("curves", "train/loss")
    drawing = draw(figure, rows)
    assert drawing is not None
    for line in drawing.axes[0].get_lines():
        assert MOST / 2 < len(line.get_xdata()) <= MOST
        assert np.allclose(line.get_ydata(), 5 - np.asarray(line.get_xdata()) / 4000)
    assert "means of several in a row" in caption(figure, rows)


def test_of_very_many_rows_the_best_show_samples(tmp_path: Path) -> None:
    rows = []
    for row in rows_of(SHOWN + 2):
        evaluation = Evaluation(tmp_path / row.records[0].cell)
        evaluation.folder.mkdir()
        np.savez(evaluation.samples_path, arr_0=np.zeros((4, 8, 8, 3), np.uint8), labels=np.arange(4))
        record = Record(
            row.records[0].cell, row.labels, {}, 0, "run", "e", row.records[0].metrics, evaluation=evaluation
        )
        rows.append(Row(row.labels, (record,)))
    samples = collect_samples(rows, 2, "fd_efflite0")
    assert samples is not None and [row.name for row in samples.rows][:2] == ["lr 2 · decay 2", "lr 3 · decay 3"]
    assert len(samples.rows) == SHOWN and f"Of {SHOWN + 2} rows the {SHOWN} best" in samples.notes[0]
