"""Where curves cross, in words; and what searches chose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.store import Benchmark
from reports.aggregate import Row, rows_of
from reports.crossing import crossing_notes, parse_crossing
from reports.layout import parse_layout
from reports.quantities import is_cost, quantity
from reports.records import Record

AXES = {"layer": ["ours", "theirs", "others"], "length": ["64", "256", "1024"], "batch": ["1", "8"]}
ASKED = {"metric": "forward_seconds", "along": "length", "between": "layer", "of": "ours", "against": "theirs"}


def rows(
    ours: dict[str, float | None],
    theirs: dict[str, float | None],
    batch: str = "1",
    others: dict[str, float | None] | None = None,
    noise: float = 0.01,
) -> list:
    """Times of benchmarks, each with a 95% interval of so large a share either way; None = failed."""
    records = []
    for layer, times in (("ours", ours), ("theirs", theirs), ("others", others or {})):
        for length, seconds in times.items():
            labels = {"layer": layer, "length": length, "batch": batch}
            name = f"{layer}{length}"
            ends = {"": 1.0, "_low": 1 - noise, "_high": 1 + noise} if noise else {"": 1.0}
            metrics = {f"forward_seconds{end}": seconds * factor for end, factor in ends.items()} if seconds else {}
            reason = "" if seconds else "failed: out of memory"
            timed = Benchmark(Path(name))
            records.append(Record(name, labels, {}, 0, "", name, metrics, reason, benchmark=timed))
    return rows_of(records)


def test_a_crossing_is_interpolated_on_logarithmic_scales() -> None:
    measured = rows({"64": 2.0, "256": 4.0, "1024": 8.0}, {"64": 1.0, "256": 4.0 / 2, "1024": 8.0 * 2})
    (note,) = crossing_notes(parse_crossing(ASKED, AXES), measured)
    # The ratio falls from 2 at 256 to 1/2 at 1024: it is 1 in the geometric middle.
    assert note.startswith(
        "Forward, batch 1: ours crosses theirs at length 512 (interpolated; 0.50x at 64, 2.00x at 1024"
    )


def test_no_crossing_is_said_too() -> None:
    (note,) = crossing_notes(parse_crossing(ASKED, AXES), rows({"64": 1.0, "256": 1.0}, {"64": 2.0, "256": 3.0}))
    assert "ours needs less than theirs at every length measured, 64 to 256 (2.00x at 64, 3.00x at 256" in note


def test_one_place_is_too_few_and_other_axes_are_kept_apart() -> None:
    crossing = parse_crossing(ASKED, AXES)
    assert crossing_notes(crossing, rows({"64": 1.0}, {"64": 2.0})) == []
    both = [*rows({"64": 1.0, "256": 1.0}, {"64": 2.0, "256": 2.0}), *rows({"64": 2.0}, {"64": 1.0}, batch="8")]
    assert [note.partition(":")[0] for note in crossing_notes(crossing, both)] == ["Forward, batch 1"]


def test_of_several_rivals_the_best_counts_at_every_place() -> None:
    crossing = parse_crossing({**ASKED, "against": ["theirs", "others"]}, AXES)
    measured = rows({"64": 2.0, "256": 2.0}, {"64": 1.0, "256": 9.0}, others={"64": 9.0, "256": 4.0})
    (note,) = crossing_notes(crossing, measured)
    assert "ours crosses the best of theirs, others at length 128 (interpolated; 0.50x at 64, 2.00x at 256" in note
    (alone,) = crossing_notes(crossing, rows({"64": 1.0, "256": 1.0}, {"64": 2.0, "256": 3.0}))
    assert "ours needs less than theirs at every" in alone  # those without a measurement are not named


def test_where_a_rival_is_missing_nothing_is_compared() -> None:
    """The others always win where they run: that they run out of memory is no crossing."""
    crossing = parse_crossing({**ASKED, "against": ["theirs", "others"]}, AXES)
    measured = rows(
        {"64": 2.0, "256": 4.0, "1024": 8.0},
        {"64": 1.5, "256": 6.0, "1024": 24.0},
        others={"64": 1.0, "256": 2.0, "1024": None},
    )
    (note,) = crossing_notes(crossing, measured)
    assert "ours needs more than the best of theirs, others at every length measured, 64 to 256 (" in note
    assert note.endswith(" Left out: length 1024 (without others).")


def test_differences_within_the_noise_are_called_so() -> None:
    crossing = parse_crossing(ASKED, AXES)

    def said(ours: list[float], theirs: list[float], noise: float) -> str:
        a, b = (dict(zip(("64", "256", "1024"), times, strict=False)) for times in (ours, theirs))
        return crossing_notes(crossing, rows(a, b, noise=noise))[0]

    assert "ours cannot be told from theirs at any length measured, 64 to 256" in said([2, 4], [2.01, 4.01], 0.2)
    assert "needs less than theirs at length 256, within the noise at 64 (" in said([2, 4], [2.01, 8], 0.2)
    vague = said([2, 4, 8], [1, 3.9, 16], 0.1)
    assert "ours crosses theirs at length between 64 and 1024, within the noise at 256 (0.50x" in vague
    assert "ours needs less than theirs at every" in (blind := said([2, 4], [3, 8], 0.0))
    assert blind.endswith("of its speed; the noise is not known).")


def test_times_of_separate_runs_cross_nowhere() -> None:
    found = rows({"64": 2.0, "256": 4.0}, {"64": 1.0, "256": 8.0})
    assert len(crossing_notes(parse_crossing(ASKED, AXES), found)) == 1
    apart = [Row(row.labels, tuple(replace(record, benchmark=None) for record in row.records)) for row in found]
    assert crossing_notes(parse_crossing(ASKED, AXES), apart) == []


def test_a_place_without_a_logarithm_is_left_out() -> None:
    counted = parse_crossing({**ASKED, "metric": "flops"}, AXES)
    records = [
        Record(f"{layer}{length}", {"layer": layer, "length": length}, {}, 0, "", "e", {"flops": value})
        for layer, values in (("ours", (2.0, 4.0, 0.0)), ("theirs", (1.0, 8.0, 16.0)))
        for length, value in zip(("64", "256", "1024"), values, strict=True)
    ]
    (note,) = crossing_notes(counted, rows_of(records))
    assert "at length 128 (interpolated; 2.00x at 64, 0.50x at 256 of its need). Left out: length 1024 (w" in note


def test_what_was_timed_elsewhere_is_left_out() -> None:
    found = rows({"64": 2.0, "256": 4.0, "1024": 8.0}, {"64": 1.0, "256": 8.0, "1024": 16.0})
    moved = [
        replace(row, flags={"hardware": "hardware is B"}) if "1024" in row.labels.values() else row for row in found
    ]
    (note,) = crossing_notes(parse_crossing(ASKED, AXES), [*moved[:5], found[5]])  # ours elsewhere, theirs here
    assert note.endswith("2.00x at 256 of its speed). Left out: length 1024 (without ours).")
    assert "2.00x at 1024" in crossing_notes(parse_crossing(ASKED, AXES), moved)[0]  # both elsewhere


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "forward_second"}, "Did you mean 'forward_seconds'"),
        ({"metric": "images_per_s"}, "'images_per_s' is no cost; give one of which less is better"),
        ({"metric": "memorisation_rate"}, "is no cost"),
        ({"along": "lenght"}, "Did you mean 'length'"),
        ({"of": "our"}, "Did you mean 'ours'"),
        ({"against": ["theirs", "other"]}, "Did you mean 'others'"),
        ({"against": ["theirs", "ours"]}, "other than of"),
        ({"against": []}, "one or more labels"),
        ({"along": "layer", "between": "length", "of": "64", "against": "256"}, "must be numbers"),
    ],
)
def test_wrong_crossings_are_explained(change: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_crossing({**ASKED, **change}, AXES)


def test_layouts_take_crossings_and_chosen_values() -> None:
    columns = ["forward_seconds", "chosen/sampler.guidance"]
    report = {"rows": ["layer", "length", "batch"], "columns": columns, "crossing": [ASKED]}
    layout = parse_layout(report, AXES)
    assert layout.crossings[0].of == "ours" and layout.columns[1].label == "Guidance chosen"


@pytest.mark.parametrize("metric", ["forward_seconds", "peak_memory_bytes", "samples_per_s", "parameters"])
def test_costs_do_not_hang_on_the_seed_of_a_training(metric: str) -> None:
    assert is_cost(metric) and not is_cost("fd_efflite0")
    assert quantity(metric).label != metric
