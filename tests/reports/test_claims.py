"""Claims judged on made-up values: each kind, each verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.store import Benchmark
from reports.aggregate import Row
from reports.claims import Verdict, agreement, judge
from reports.guard import STEPS
from reports.records import Record
from reports.reference import Claim, load_table, parse_claim

TIMED = Benchmark(Path("benchmarks/fake"))


def rows(
    values: dict[str, list[float]],
    metric: str = "fd_efflite0",
    axis: str = "scheme",
    benchmark: Benchmark | None = None,
    **fixed: str,
) -> list[Row]:
    result = []
    for name, samples in values.items():
        labels = {axis: name, **fixed}
        records = [
            Record(f"{name}{seed}", labels, {}, seed, "r", "e", metrics={metric: value}, benchmark=benchmark)
            for seed, value in enumerate(samples)
        ] or [Record(name, labels, {}, 0, "r", "e", reason="not run")]
        result.append(Row(labels, tuple(records)))
    return result


def claim(kind: str, metric: str = "fid", **more: Any) -> Claim:
    return parse_claim({"id": "c", "text": "t", "source": "s", "kind": kind, "metric": metric, **more}, "test")


BEST = claim("best", axis="scheme", label="a")
GOOD, WORSE, NEAR = [10.0, 11.0, 12.0], [20.0, 21.0, 22.5], [10.5, 10.8, 12.1]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"a": GOOD, "b": WORSE, "c": WORSE}, "supported"),
        ({"a": WORSE, "b": GOOD, "c": WORSE}, "contradicted"),
        ({"a": GOOD, "b": NEAR, "c": WORSE}, "undecided"),
        ({"a": GOOD, "b": WORSE, "c": []}, "undecided"),
        ({"a": WORSE, "b": GOOD, "c": []}, "contradicted"),
        ({"a": [], "b": GOOD, "c": WORSE}, "not measured"),
        ({"a": GOOD, "b": [], "c": []}, "not measured"),
        ({"a": GOOD[:1], "b": WORSE[:1], "c": WORSE[:1]}, "undecided"),  # nothing is known of the noise
    ],
)
def test_best(values: dict[str, list[float]], verdict: str) -> None:
    assert judge(BEST, rows(values)).judgement == verdict


def test_one_of_many_comparisons_must_stand_out_to_contradict() -> None:
    """p = 0.034: a finding where it is the only comparison, to be expected where it is one of eight."""
    values = {"a": GOOD, "b": [9.0, 9.8, 11.4]}
    assert judge(BEST, rows(values)).judgement == "contradicted"
    verdict = judge(BEST, rows(values | {name: WORSE for name in "cdefghi"}))
    assert verdict.judgement == "undecided" and "not as one of 8 comparisons" in verdict.evidence[0]


def test_the_stand_in_is_named() -> None:
    assert judge(BEST, rows({"a": GOOD, "b": WORSE})).stand_in == "FD-EffLite0"
    assert judge(BEST, rows({"a": GOOD, "b": WORSE}, metric="fid")).stand_in == ""


def test_higher_is_better_where_the_registry_says_so() -> None:
    accuracy = claim("best", metric="val/accuracy", axis="scheme", label="a")
    assert judge(accuracy, rows({"a": WORSE, "b": GOOD}, metric="val/accuracy")).judgement == "supported"


def test_order_and_its_tau() -> None:
    order = claim("order", order=[{"scheme": "a"}, {"scheme": "b"}, {"scheme": "c"}])
    worst = [40.0, 41.0, 42.5]
    found = judge(order, rows({"a": GOOD, "b": WORSE, "c": worst}))
    assert (found.judgement, found.tau) == ("supported", 1.0)
    found = judge(order, rows({"a": worst, "b": WORSE, "c": GOOD}))
    assert (found.judgement, found.tau) == ("contradicted", -1.0)
    assert judge(order, rows({"a": GOOD, "b": WORSE})).judgement == "not measured"


def test_an_axis_that_the_sweep_lacks_is_said() -> None:
    found = judge(claim("best", axis="position", label="middle"), rows({"a": GOOD, "b": WORSE}))
    assert found.judgement == "not measured" and "position" in found.evidence[0]


def test_other_axes_are_judged_apart_and_one_contradiction_decides() -> None:
    agree = rows({"a": GOOD, "b": WORSE}, size="B")
    against = rows({"a": WORSE, "b": GOOD}, size="L")
    assert judge(BEST, agree).judgement == "supported"
    assert judge(BEST, agree + against).judgement == "contradicted"
    only_small = claim("best", axis="scheme", label="a", where={"size": "B"})
    assert judge(only_small, agree + against).judgement == "supported"
    unmeasured = rows({"a": [], "b": []}, size="L")
    assert judge(BEST, agree + unmeasured).judgement == "undecided"


@pytest.mark.parametrize(
    ("a", "b", "or_better", "verdict"),
    [
        ([10.0, 10.1, 10.2], [10.1, 10.0, 10.2], False, "supported"),
        ([20.0, 20.1, 20.2], [10.1, 10.0, 10.2], False, "contradicted"),
        ([5.0, 5.1, 5.2], [10.1, 10.0, 10.2], False, "contradicted"),
        ([5.0, 5.1, 5.2], [10.1, 10.0, 10.2], True, "supported"),
        ([8.0, 14.0, 11.0], [10.1, 10.0, 10.2], False, "undecided"),
        ([10.0], [10.0], False, "undecided"),
    ],
)
def test_similar(a: list[float], b: list[float], or_better: bool, verdict: str) -> None:
    similar = claim("similar", left={"scheme": "a"}, right={"scheme": "b"}, tolerance=0.05, or_better=or_better)
    assert judge(similar, rows({"a": a, "b": b})).judgement == verdict


@pytest.mark.parametrize(("left", "verdict"), [([144.0], "supported"), ([134.0], "contradicted"), ([], "not measured")])
def test_ratio_of_exact_counts(left: list[float], verdict: str) -> None:
    ratio = claim("ratio", "parameters", left={"scheme": "a"}, right={"scheme": "b"}, value=1.441, tolerance=0.02)
    assert judge(ratio, rows({"a": left, "b": [100.0]}, metric="parameters")).judgement == verdict


def test_ratio_with_a_bound() -> None:
    faster = claim("ratio", "seconds_per_image", left={"scheme": "a"}, right={"scheme": "b"}, at_least=1.5)

    def judged(a: list[float], b: list[float], benchmark: Benchmark | None = TIMED) -> Verdict:
        return judge(faster, rows({"a": a, "b": b}, "seconds_per_image", benchmark=benchmark))

    assert judged([3.0, 3.01, 3.02], [1.0, 1.01, 1.02]).judgement == "supported"
    assert judged([1.2, 1.21, 1.22], [1.0, 1.01, 1.02]).judgement == "contradicted"
    assert judged([3.0], [1.0]).judgement == "undecided"
    apart = judged([3.0, 3.01, 3.02], [1.0, 1.01, 1.02], benchmark=None)
    assert apart.judgement == "undecided" and "separate runs" in apart.evidence[0]


def test_a_ratio_has_the_noise_of_both_in_it() -> None:
    """4 / 0.1 with errors of 0.02 and 0.004: 40 +- 3.2 at 95%, most of it from the small one, 40 times as large."""
    claimed = claim("ratio", "forward_seconds", left={"scheme": "a"}, right={"scheme": "b"}, at_least=38)

    def timed(name: str, value: float, reach: float) -> Row:
        metrics = {f"forward_seconds{e}": value + s * reach for e, s in (("", 0), ("_low", -1), ("_high", 1))}
        record = Record(name, {"scheme": name}, {}, 0, "", "e", metrics=metrics, benchmark=TIMED)
        return Row({"scheme": name}, (record,))

    assert judge(claimed, [timed("a", 4.0, 0.04), timed("b", 0.1, 0.008)]).judgement == "undecided"
    assert judge(claimed, [timed("a", 4.0, 0.04), timed("b", 0.1, 0.001)]).judgement == "supported"
    both = judge(replace(claimed, at_most=42), [timed("a", 4.0, 0.04), timed("b", 0.1, 0.003)])
    said = "is 40, claimed at least 38 (yes) and at most 42 (yes); interval over repetitions"
    assert both.judgement == "supported" and both.evidence[0].endswith(said)
    both = judge(replace(claimed, at_most=41), [timed("a", 4.0, 0.04), timed("b", 0.1, 0.003)])
    assert both.judgement == "undecided" and "at least 38 (yes) and at most 41 (within the noise)" in both.evidence[0]
    assert judge(claimed, [timed("a", 3.0, 0.04), timed("b", 0.1, 0.008)]).judgement == "contradicted"
    assert judge(claimed, [timed("a", 3.5, 0.04), timed("b", 0.1, 0.008)]).judgement == "undecided"


@pytest.mark.parametrize("kind", [{"kind": "similar", "tolerance": 0.05}, {"kind": "ratio", "at_most": 1.05}])
def test_one_of_many_contexts_must_stand_out_to_contradict(kind: dict[str, Any]) -> None:
    """A finding where it is the only comparison, to be expected where it is one of twelve."""
    claimed = claim(**{"metric": "fid", "left": {"scheme": "a"}, "right": {"scheme": "b"}, **kind})
    off = rows({"a": [12.0, 12.5, 12.9], "b": [10.1, 10.0, 10.2]}, size="0")
    even = [row for i in range(1, 12) for row in rows({"a": [10.0, 10.1, 10.2], "b": [10.1, 10.0, 10.2]}, size=str(i))]
    assert judge(claimed, off).judgement == "contradicted"
    assert judge(claimed, off + even).judgement == "undecided"


def test_a_difference_of_unknown_size_contradicts_no_likeness() -> None:
    """Judged by the kernel distance: that there is a difference, not how large it is."""

    def row(name: str, fd: float, kid: float) -> Row:
        metrics = {"fd_efflite0": fd, "kid_efflite0": kid, "kid_efflite0_std": 0.1}
        return Row({"scheme": name}, (Record(name, {"scheme": name}, {}, 0, "run", "e", metrics=metrics),))

    similar = claim("similar", left={"scheme": "a"}, right={"scheme": "b"}, tolerance=0.1)
    assert judge(similar, [row("a", 11.5, 9.0), row("b", 10.0, 1.0)]).judgement == "undecided"


def test_correlation() -> None:
    falls = load_table("aim.figure6").claim("fid_correlates_with_parameters")

    def sized(pairs: list[tuple[float, float]]) -> list[Row]:
        labels = [{"size": str(p), "model": "aim"} for p, _ in pairs]
        found = [{falls.x: p, "fid": f} for p, f in pairs]
        return [Row(a, (Record(a["size"], a, {}, 0, "r", "e", b),)) for a, b in zip(labels, found, strict=True)]

    assert judge(falls, sized([(1, 4), (2, 3), (3, 2), (4, 1.1)])).judgement == "supported"
    assert judge(falls, sized([(1, 4), (2, 1), (3, 4), (4, 2)])).judgement == "undecided"  # four points, any r
    assert judge(falls, sized([(1, 4), (2, 3.4), (3, 3.1), (4, 1)])).judgement == "undecided"
    assert judge(falls, sized([(size, size + size % 2) for size in range(1, 9)])).judgement == "contradicted"
    assert judge(falls, sized([(1, 4), (2, 3), (3, 2)])).judgement == "undecided"
    assert judge(falls, sized([(1, 4), (2, 3)])).judgement == "not measured"
    published = [(row.values["parameters"], row.values["fid"]) for row in load_table("aim.figure6").rows]
    found = judge(falls, sized([(p, f) for p, f in published if p and f]))
    assert found.judgement == "supported" and found.evidence[0].startswith("r = -0.987")
    without = judge(falls, sized([(0, 9), (1, 4), (2, 3), (3, 2), (4, 1.1)]))  # which has no logarithm
    assert without.judgement == "supported" and "over 4 rows, by the logarithm; 1 without a" in without.evidence[0]


def test_a_bound_on_a_correlation_is_held_by_its_whole_interval() -> None:
    """Ten rows with r = -0.97: at 95% above -0.99 and below -0.86."""
    y = [10, 9.5, 7.2, 7.4, 5.6, 5.3, 4.4, 2.4, 2.6, 1]
    sized = rows({str(n): [value] for n, value in enumerate(y)})
    sized = [
        Row(row.labels, tuple(replace(r, metrics={**r.metrics, "parameters": n + 1.0}) for r in row.records))
        for n, row in enumerate(sized)
    ]

    def judged(bound: float) -> str:
        return judge(claim("correlation", "fd_efflite0", x="parameters", at_most=bound), sized).judgement

    assert [judged(bound) for bound in (0, -0.8, -0.95, -0.999)] == [
        "supported",
        "supported",
        "undecided",
        "contradicted",
    ]


def test_a_context_that_lacks_a_named_row_is_left_out() -> None:
    """AiM-1B has no LlamaGen of its size: that is no reason to leave the others undecided."""
    order = claim("order", order=[{"scheme": "a"}, {"scheme": "b"}])
    pairs = [*rows({"a": GOOD, "b": WORSE}, size="B"), *rows({"a": GOOD, "b": WORSE}, size="L")]
    assert judge(order, [*pairs, *rows({"a": GOOD}, size="1B")]).judgement == "supported"
    assert judge(order, [*pairs, *rows({"a": GOOD, "b": []}, size="1B")]).judgement == "undecided"
    assert judge(order, rows({"a": GOOD}, size="1B")).judgement == "not measured"


def test_a_claim_may_hold_under_several_conditions() -> None:
    some = claim("best", axis="scheme", label="a", where={"size": ["B", "L"]})
    agree = [*rows({"a": GOOD, "b": WORSE}, size="B"), *rows({"a": GOOD, "b": WORSE}, size="L")]
    assert judge(some, [*agree, *rows({"a": WORSE, "b": GOOD}, size="XL")]).judgement == "supported"
    assert judge(some, rows({"a": GOOD, "b": WORSE}, size="XL")).evidence == ("no row of B or L at this scale",)


def test_a_stand_in_is_alike_within_a_share_of_what_lies_above_real_images() -> None:
    """4 of 104 are 3.8 %, but 40 % of the 10 above the floor; of FID itself the floor is next to nothing."""

    def floored(metric: str) -> list[Row]:
        found = rows({"a": [108.0, 108.1, 108.2], "b": [104.0, 104.1, 104.2]}, metric)
        protocol = {"floor": {metric: 94.0}}
        return [
            Row(row.labels, tuple(replace(r, evaluation_result={"protocol": protocol}) for r in row.records))
            for row in found
        ]

    similar = claim("similar", left={"scheme": "a"}, right={"scheme": "b"}, tolerance=0.1)
    verdict = judge(similar, floored("fd_efflite0"))
    assert verdict.judgement == "contradicted" and "of what lies above real images (94" in verdict.evidence[0]
    assert judge(similar, floored("fid")).judgement == "supported"


def test_agreement_with_the_published_order() -> None:
    table = load_table("aim.table3")
    ours = [
        *rows({"single": [90.0], "per_layer": [80.0]}, axis="adaln", size="B"),
        *rows({"single": [70.0], "per_layer": [75.0]}, axis="adaln", size="L"),
    ]
    assert agreement(table, "fid", ours, "fd_efflite0") == (pytest.approx(2 / 3), 4)


def test_agreement_holds_rows_against_each_other_at_equal_labels_of_what_the_paper_does_not_vary() -> None:
    """The paper's 2.95 of single is more than its 2.89, as ours of either guidance; these two are not compared."""
    ours = {"1": {"single": [90.0], "per_layer": [80.0]}, "2": {"single": [70.0], "per_layer": [60.0]}}
    found = [
        row for guidance, values in ours.items() for row in rows(values, axis="adaln", size="L", guidance=guidance)
    ]
    assert agreement(load_table("aim.table3"), "fid", found, "fd_efflite0") == (pytest.approx(1), 4)


def _single(name: str, value: float, run: str) -> Row:
    metrics = {"fd_efflite0": value, "fd_efflite0_low": value - 0.5, "fd_efflite0_high": value + 0.5}
    return Row({"scheme": name}, (Record(name, {"scheme": name}, {}, 0, run, "e", metrics=metrics),))


def test_one_training_each_decides_nothing() -> None:
    """Samples of two trainings can be told apart when nothing but their seed differs."""
    trainings = judge(BEST, [_single("a", 10.0, "run1"), _single("b", 20.0, "run2")])
    assert trainings.judgement == "undecided" and "one training each" in trainings.evidence[0]
    samplers = judge(BEST, [_single("a", 10.0, "run1"), _single("b", 20.0, "run1")])
    assert samplers.judgement == "supported"  # one model, sampled in two ways


@pytest.mark.parametrize(
    ("asked", "fact", "judgement"),
    [
        ({"kind": "best", "axis": "scheme", "label": "a"}, "evaluation.num_samples", "undecided"),
        ({"kind": "order", "order": [{"scheme": n} for n in "ab"]}, "reference images", "undecided"),
        ({"kind": "similar", "left": {"scheme": "a"}, "right": {"scheme": "b"}, "tolerance": 5}, "resize", "undecided"),
        ({"kind": "ratio", "left": {"scheme": "a"}, "right": {"scheme": "b"}, "at_most": 1}, STEPS, "undecided"),
        ({"kind": "best", "axis": "scheme", "label": "a"}, "code version", "supported"),
    ],
)
def test_rows_that_are_not_comparable_decide_nothing(asked: dict[str, Any], fact: str, judgement: str) -> None:
    pair = rows({"a": GOOD, "b": WORSE})
    assert judge(claim(**asked), pair).judgement == "supported"
    apart = judge(claim(**asked), [replace(pair[0], flags={fact: f"{fact} is 1, elsewhere 2"}), pair[1]])
    assert apart.judgement == judgement and apart.tau is None
    assert ("not comparable" in apart.evidence[0]) == (judgement == "undecided")


def test_a_row_that_is_not_comparable_is_no_point_of_a_correlation() -> None:
    labels = [{"scheme": str(n)} for n in range(6)]
    records = [Record("c", a, {}, 0, "r", "e", {"parameters": n, "fid": -n}) for n, a in enumerate(labels)]
    found = [Row(a, (record,)) for a, record in zip(labels, records, strict=True)]
    falls = claim("correlation", x="parameters", at_most=0)
    other = replace(found[0], flags={"resize": "resize is bilinear, elsewhere bicubic"})
    assert "over 5 rows; 1 not comparable left out" in judge(falls, [other, *found[1:]]).evidence[0]


def test_one_training_each_shows_no_likeness_either() -> None:
    """Samples that cannot be told apart say nothing about what another seed would have given."""
    similar = claim("similar", left={"scheme": "a"}, right={"scheme": "b"}, tolerance=0.2)
    like = [_single("a", 10.0, "run1"), _single("b", 10.1, "run2")]
    assert judge(similar, like).judgement == "undecided"
    assert judge(similar, [like[0], _single("b", 10.1, "run1")]).judgement == "supported"


@pytest.mark.parametrize(("x", "metric"), [("train_seconds", "fid"), ("fid", "train_seconds")])
@pytest.mark.parametrize(("benchmark", "judgement"), [(None, "undecided"), (TIMED, "supported")])
def test_times_of_separate_runs_are_no_side_of_a_correlation(
    x: str, metric: str, benchmark: Benchmark | None, judgement: str
) -> None:
    sized = [
        Row(row.labels, tuple(replace(r, metrics={"train_seconds": n + 1.0, "fid": 9.0 - n}) for r in row.records))
        for n, row in enumerate(rows({str(n): [0.0] for n in range(6)}, benchmark=benchmark))
    ]
    assert judge(claim("correlation", metric, x=x, at_most=0), sized).judgement == judgement
