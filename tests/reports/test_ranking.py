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
from reports.contest import timed_apart
from reports.entry import entry_of
from reports.formats import to_latex, to_markdown
from reports.layout import Column, Layout
from reports.page import table_html
from reports.ranking import Rank, contest_axes, rank_rows, tie_notes
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
    return rank_rows(rows, column)


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


def test_rows_without_a_spread_are_judged_by_the_noise_of_their_samples() -> None:
    column = replace(COLUMN, metric="memorisation_rate")
    ends = {"memorisation_rate_low": 0.0, "memorisation_rate_high": 0.017}
    rows = [row(str(hits), [hits / 324] * 2, column.metric, **ends) for hits in (0, 1, 9)]
    assert [ranked(rows, column)[place].doubt for place in (1, 2)] == ["=", ""]
    memory = [row(str(size), [size] * 2, "forward_memory_bytes") for size in (1.0, 1.001)]
    assert ranked(memory, replace(COLUMN, metric="forward_memory_bytes"))[1].doubt == ""


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


@pytest.mark.parametrize("singles", [(0,), (0, 3), (3,)])
def test_one_training_is_told_from_no_row_of_several(singles: Sequence[int]) -> None:
    """However small the noise of its samples: the others show what another seed does."""
    draw = np.random.default_rng(0)
    ends = {"fd_efflite0_low": 0.0, "fd_efflite0_high": 0.1}
    wrong = 0
    for _ in range(100):
        numbers = draw.normal(size=(len(SPREADS), 3)) * np.array(SPREADS)[:, None]
        rows = [row(str(n), line[: 1 if n in singles else 3].tolist(), **ends) for n, line in enumerate(numbers)]
        wrong += any(rank.doubt == "" for rank in ranked(rows).values() if rank.place != "best")
    assert wrong <= 5
    clear = ranked([row("a", [0.0], **ends), row("b", [99.0, 99.1], **ends), row("c", [99.2, 99.3], **ends)])
    assert [rank.doubt for rank in clear.values()] == ["", "?", "?"]


def test_a_row_of_one_training_is_named_beside_rows_of_several(tmp_path: Path) -> None:
    cells = fakes.cells_of((0, 1, 2))
    for cell in cells:
        if cell.seed == 0 or cell.labels["hybrid_scheme"] != "serial_v2":
            fakes.write_run(tmp_path, cell, 100.0 + cell.seed)
    notes = [text for _, text in fakes.subject(tmp_path, cells).table.notes]
    assert "One training of serial_v2: the spread over training seeds is not known." in notes
    assert "Mean ± standard deviation over 3 seeds." in notes


def test_what_was_measured_in_another_way_is_in_no_contest(tmp_path: Path) -> None:
    """50,000 samples have a lower distance than 512: no merit of the row."""
    cells, other = fakes.cells_of((0, 1, 2)), {"evaluation__protocol__num_samples": 50_000}
    for cell in cells:
        scheme = cell.labels["hybrid_scheme"]
        fd = 60.0 if scheme == "serial_v2" else fakes.FD[scheme]
        fakes.write_run(tmp_path, cell, fd + cell.seed, **(other if scheme == "serial_v2" else {}))
    subject = fakes.subject(tmp_path, cells)
    entries = [(line.entries[2].rank, line.entries[2].doubt) for line in subject.table.rows]
    assert entries[2:] == [("best", ""), ("", "?")]
    notes = [text for _, text in subject.table.notes]
    assert any("? noise unknown or not comparable" in text for text in notes)
    assert [text.partition(" samples")[0] for text in notes if "N = " in text] == [
        "Of group_v1, group_v2, serial_v1: N = 512",
        "Of serial_v2: N = 50000",
    ]
    overview = entry_of(subject)
    assert overview.best[0]["row"] == "serial_v1 (not comparable: 1 more)"
    assert {claim["judgement"] for claim in overview.claims} == {"undecided"}
    assert all("not comparable (evaluation.num_samples is 50000" in v.evidence[0] for v in subject.verdicts)


def test_rows_that_were_measured_in_the_same_other_way_are_ranked() -> None:
    flags = {"evaluation.num_samples": "N is 64"}
    pair = [replace(row(name, [value, value + 1]), flags=flags) for name, value in (("a", 9.0), ("b", 1.0))]
    assert [rank.place for rank in ranked(pair).values()] == ["", "best"]
    assert ranked([pair[0], row("c", [5.0, 6.0])]) == {}
    exact = [replace(of, records=row("x", [2.0 + n], "parameters").records) for n, of in enumerate(pair)]
    told = ranked([replace(exact[0], flags={}), exact[1]], replace(COLUMN, metric="parameters"))
    assert [rank.place for rank in told.values()] == ["best", ""]  # a count is a count


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


def test_rows_that_are_switched_on_and_off_are_ranked_together_and_numbers_apart() -> None:
    def axes(*labels: str) -> list[str]:
        layout = Layout(("scheme", "other"), (COLUMN,), baseline={"scheme": "a"})
        return contest_axes(layout, [Row({"scheme": "a", "other": label}, ()) for label in labels])

    assert axes("on", "off") == axes("none", "standard") == axes("true", "false") == []
    assert axes("256", "512") == axes("1e-4", "0") == ["other"]


@pytest.mark.parametrize("apart", ["group", "spread"])
def test_the_marks_and_the_note_of_the_baseline_agree(tmp_path: Path, apart: str) -> None:
    """Of the quiet size nothing is like the baseline, whatever the noise of the other one."""
    values = {
        ("quiet", "a"): (100, 101, 99),
        ("quiet", "b"): (105, 106.2, 103.8),
        ("quiet", "c"): (120, 121, 119.2),
        ("noisy", "a"): (50, 70, 60),
        ("noisy", "b"): (80, 62, 75),
        ("noisy", "c"): (90, 71, 101),
    }
    cells = [fakes.cell_of({"size": size, "scheme": scheme}, seed) for size, scheme in values for seed in (0, 1, 2)]
    for cell in cells:
        fakes.write_run(tmp_path, cell, values[cell.labels["size"], cell.labels["scheme"]][cell.seed])
    axes = {"size": ("quiet", "noisy"), "scheme": ("a", "b", "c")}
    report = {"rows": "scheme", apart: "size", "columns": ["fd_efflite0"], "baseline": {"scheme": "a"}}
    table = fakes.subject(tmp_path, cells, report=report, axes=axes, declared=["generator.size"]).table
    doubts = [entry.doubt for line in table.rows for entry in line.entries if entry.kind == "measured"]
    assert doubts == (["", "", "", "", "=", "="] if apart == "group" else ["", "", "", "=", "", "="])
    (ties,) = (text for _, text in table.notes if "Not distinguishable" in text)
    assert ties.endswith("FD-EffLite0 of noisy · b, noisy · c.")


def test_a_baseline_that_is_ranked_elsewhere_is_judged_among_all_rows() -> None:
    layout = Layout(("size",), (COLUMN,), group="scheme", baseline={"scheme": "a"})
    rows = [
        row(name, values) for name, values in (("a", [1.0, 1.1, 0.9]), ("b", [1.0, 0.9, 1.2]), ("c", [9.0, 9.1, 9.0]))
    ]
    assert tie_notes(layout, rows) == [
        "Not distinguishable from the baseline, a, at 95%, all rows ranked together: FD of b."
    ]
