"""Which columns are ranked: times of benchmarks, taken in turns, but not those of separate runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reports.ranking import rank_rows, timed_apart
from tests.reports import fakes


def row(value: float, benchmark: object) -> Any:
    record = SimpleNamespace(benchmark=benchmark)
    return SimpleNamespace(value=lambda metric: SimpleNamespace(mean=value), measured=[record])


@pytest.mark.parametrize(
    ("metric", "benchmark", "ranked"),
    [("seconds_per_image", None, False), ("seconds_per_image", "timed", True), ("fd_efflite0", None, True)],
)
def test_times_are_ranked_where_they_were_taken_in_turns(
    metric: str, benchmark: object, ranked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.ranking.alike", lambda *_: [])
    rows = [row(2.0, benchmark), row(1.0, benchmark)]
    column: Any = SimpleNamespace(metric=metric, better="lower")
    ranks = rank_rows(list(enumerate(rows)), column)
    assert timed_apart(rows, metric) is not ranked
    assert {index: rank.place for index, rank in ranks.items()} == ({1: "best", 0: ""} if ranked else {})


def test_only_what_may_be_compared_is_called_indistinguishable(tmp_path: Path) -> None:
    cells = fakes.cells_of((0, 1, 2))
    for number, cell in enumerate(cells):
        fakes.write_run(tmp_path, cell, 100.0 + 7 * number % 11)
    report = {**fakes.REPORT, "columns": ["fd_efflite0", "seconds_per_image"]}
    ties = [
        note for _, note in fakes.subject(tmp_path, cells, report=report).table.notes if "Not distinguishable" in note
    ]
    assert len(ties) == 1 and "FD-EffLite0 of" in ties[0] and "Time" not in ties[0]
