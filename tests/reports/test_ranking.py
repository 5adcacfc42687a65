"""Which columns are ranked, and which rows are told from the best of a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.store import Benchmark
from reports.aggregate import Row
from reports.entry import entry_of
from reports.formats import to_latex, to_markdown
from reports.layout import Column
from reports.page import table_html
from reports.ranking import Rank, rank_rows, timed_apart
from reports.records import Record
from tests.reports import fakes

COLUMN = Column("fd_efflite0", "FD", "lower", ".1f", 1.0)
SPREADS = (72.5, 131.5, 13.3, 149.8, 65.4, 35.2, 21.3, 43.0)
"""Standard deviations over three seeds of one quantity of eight generators, as the suite has measured them."""


def row(name: str, values: Sequence[float], metric: str = "fd_efflite0", benchmark: Any = None, **more: float) -> Row:
    labels = {"scheme": name}
    return Row(
        labels,
        tuple(
            Record(f"{name}{s}", labels, {}, s, f"{name}{s}", "e", {metric: value, **more}, benchmark=benchmark)
            for s, value in enumerate(values)
        ),
    )


def ranked(rows: Sequence[Row], column: Column = COLUMN) -> dict[int, Rank]:
    return rank_rows(list(enumerate(rows)), column)


@pytest.mark.parametrize(
    ("metric", "benchmark", "is_ranked"),
    [
        ("seconds_per_image", None, False),
        ("seconds_per_image", Benchmark(Path("timed")), True),
        ("fd_efflite0", None, True),
    ],
)
def test_times_are_ranked_where_they_were_taken_in_turns(
    metric: str, benchmark: Benchmark | None, is_ranked: bool
) -> None:
    rows = [row(name, [value], metric, benchmark) for name, value in (("a", 2.0), ("b", 1.0))]
    ranks = ranked(rows, replace(COLUMN, metric=metric))
    assert timed_apart(rows, metric) is not is_ranked
    assert {index: rank.place for index, rank in ranks.items()} == ({1: "best", 0: ""} if is_ranked else {})


@pytest.mark.parametrize("spreads", [(1.0,) * 12, SPREADS], ids=["equal", "unequal"])
def test_rows_that_are_alike_are_told_from_the_best_in_at_most_one_table_of_twenty(spreads: Sequence[float]) -> None:
    """The best is chosen by the same numbers, and rows scatter unequally; a seed moves all rows alike."""
    draw = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        numbers = draw.normal(0, 50, 3) + draw.normal(size=(len(spreads), 3)) * np.array(spreads)[:, None]
        ranks = ranked([row(str(n), line.tolist()) for n, line in enumerate(numbers)])
        wrong += any(rank.doubt != "=" for rank in ranks.values() if rank.place != "best")
    assert wrong <= 10


def test_what_a_seed_does_to_all_rows_hides_no_difference() -> None:
    draw = np.random.default_rng(1)
    numbers = draw.normal(0, 100, 3) + draw.normal(size=(6, 3)) + 15 * (np.arange(6) > 0)[:, None]
    ranks = ranked([row(str(n), line.tolist()) for n, line in enumerate(numbers)])
    assert [rank.doubt for rank in ranks.values()] == [""] * 6


def test_each_pair_is_judged_by_its_own_noise() -> None:
    """Two quiet rows that lie nearer than a noisy one are told from the best, the noisy one is not."""
    quiet = [row(str(n), [n * 40 + 10.0, n * 40 + 10.1, n * 40 + 10.2]) for n in range(8)]
    ranks = ranked([*quiet, row("noisy", [100.0, 140.0, 60.0])])
    assert [ranks[1].doubt, ranks[2].doubt, ranks[8].doubt] == ["", "", "="]


def test_rows_of_one_seed_are_one_pair_of_all() -> None:
    """A difference of 3 standard errors: more than noise between two rows, not as one of 28 pairs."""
    error, values = 1 / 2**0.5, [0.0, 3.0, *range(20, 26)]
    rows = [
        row(str(n), [v], fd_efflite0_low=v - 1.96 * error, fd_efflite0_high=v + 1.96 * error)
        for n, v in enumerate(values)
    ]
    assert [ranked(rows[:2])[1].doubt, ranked(rows)[1].doubt, ranked(rows)[2].doubt] == ["", "=", ""]


def test_a_stand_in_for_noise_is_one_pair_of_all_too() -> None:
    """The kernel distances differ by 3 standard errors."""
    kids = [0.0, 0.3, *(2.0 + n for n in range(6))]
    rows = [row(str(n), [10.0 + n], kid_efflite0=kid, kid_efflite0_std=0.1 / 2**0.5) for n, kid in enumerate(kids)]
    assert [ranked(rows[:2])[1].doubt, ranked(rows)[1].doubt, ranked(rows)[2].doubt] == ["", "=", ""]


def test_unknown_noise_is_marked_and_said_in_every_format(tmp_path: Path) -> None:
    for number, cell in enumerate(fakes.cells_of()):
        fakes.write_run(tmp_path, cell, run__metrics={"val/loss": 5.2451 + number / 1e4})
    report = {"rows": "hybrid_scheme", "columns": [{"metric": "val/loss", "format": ".4f"}]}
    table = fakes.subject(tmp_path, report=report).table
    assert [line.entries[1].doubt for line in table.rows] == ["", "?", "?", "?"]
    assert any("? noise unknown, so no difference from the best is claimed." in text for _, text in table.notes)
    assert "<u>5.2452</u> ?" in to_markdown(table) and r"\underline{5.2452}$^{?}$" in to_latex(table, "x")
    assert ">5.2452 ?</td>" in table_html(table)


def test_all_of_several_equal_rows_are_named_as_the_best(tmp_path: Path) -> None:
    for number, cell in enumerate(fakes.cells_of()):
        fakes.write_run(tmp_path, cell, run__parameters=1_000_000 * (1 + number // 2))
    columns = [{"metric": "parameters", "best": "lower"}]
    (best,) = entry_of(fakes.subject(tmp_path, report={"rows": "hybrid_scheme", "columns": columns})).best
    assert best["row"] == "group_v1 and group_v2"


def test_only_what_may_be_compared_is_called_indistinguishable(tmp_path: Path) -> None:
    cells = fakes.cells_of((0, 1, 2))
    for number, cell in enumerate(cells):
        fakes.write_run(tmp_path, cell, 100.0 + 7 * number % 11)
    report = {**fakes.REPORT, "columns": ["fd_efflite0", "seconds_per_image"]}
    ties = [
        note for _, note in fakes.subject(tmp_path, cells, report=report).table.notes if "Not distinguishable" in note
    ]
    assert len(ties) == 1 and "FD-EffLite0 of" in ties[0] and "Time" not in ties[0]
