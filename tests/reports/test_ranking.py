"""Which columns are ranked: times of benchmarks, taken in turns, but not those of separate runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from reports.ranking import rank_rows, timed_apart


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
    monkeypatch.setattr("reports.ranking.compare", lambda *_: None)
    rows = [row(2.0, benchmark), row(1.0, benchmark)]
    column: Any = SimpleNamespace(metric=metric, better="lower")
    ranks = rank_rows(list(enumerate(rows)), column)
    assert timed_apart(rows, metric) is not ranked
    assert {index: rank.place for index, rank in ranks.items()} == ({1: "best", 0: ""} if ranked else {})
