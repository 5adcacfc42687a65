"""Noise: which differences count, and the rank and correlation coefficients against scipy's."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from lightning_modules.metrics.bootstrap import mean_deviations, resamples
from reports.aggregate import Row
from reports.records import Record
from reports.simultaneous import AllPairs
from reports.uncertainty import compare, kendall_tau, pearson


def row(name: str, values: list[float], metric: str = "fd_efflite0", **more: float) -> Row:
    records = [
        Record(f"{name}{seed}", {"scheme": name}, {}, seed, "run", "eval", metrics={metric: value, **more})
        for seed, value in enumerate(values)
    ]
    return Row({"scheme": name}, tuple(records))


def replace_run(of: Row) -> Row:
    """The same row, of other trainings."""
    return Row(of.labels, tuple(replace(record, run_id="other") for record in of.records))


def test_paired_seeds_find_what_unpaired_ones_cannot() -> None:
    base = [100.0, 140.0, 90.0, 120.0]
    found = compare(row("a", base), row("b", [v - 5 + 0.1 * i for i, v in enumerate(base)]), "fd_efflite0")
    assert found.distinguishable and found.method == "paired t-test, 4 seeds"
    welch = compare(row("a", base), row("b", [v - 5 for v in base[:2]]), "fd_efflite0")
    assert welch.distinguishable is False and welch.method.startswith("Welch")


def test_two_rows_of_the_same_seeds_are_judged_by_the_paired_t_test() -> None:
    draw = np.random.default_rng(0)
    found = set()
    for shift in np.linspace(0, 12, 25):
        a = draw.normal(0, 5, 4)
        b = a + shift + draw.normal(0, 2, 4)
        pair = AllPairs([row("a", a.tolist()).value("fd_efflite0"), row("b", b.tolist()).value("fd_efflite0")], 2)
        assert pair.apart(0, 1) == (scipy.stats.ttest_rel(a, b).pvalue < 0.05)
        found.add(pair.apart(0, 1))
    assert found == {True, False}


def test_rows_of_other_seeds_are_judged_as_games_and_howell_do() -> None:
    """Against the range by its definition, where the rows scatter enough alike for Tukey's margin to hold as well."""
    lines = [[10.0, 12.0, 11.0, 13.0], [14.0, 16.5, 15.0], [17.0, 18.5, 20.0]]
    values = [row(str(n), line).value("fd_efflite0") for n, line in enumerate(lines)]
    pairs, found = AllPairs(values, 3), set()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        a, b = np.var(lines[i], ddof=1) / len(lines[i]), np.var(lines[j], ddof=1) / len(lines[j])
        freedom = (a + b) ** 2 / (a**2 / (len(lines[i]) - 1) + b**2 / (len(lines[j]) - 1))
        q = abs(np.mean(lines[i]) - np.mean(lines[j])) / ((a + b) / 2) ** 0.5
        assert pairs.apart(i, j) == (scipy.stats.studentized_range.sf(q, 3, freedom) < 0.05)
        found.add(pairs.apart(i, j))
    assert found == {True, False}


def test_t_tests_agree_with_scipy() -> None:
    draw = random.Random(0)
    for shift in (0.0, 1.0, 3.0):
        a, b = [draw.gauss(0, 1) for _ in range(5)], [draw.gauss(shift, 1) for _ in range(5)]
        found = compare(row("a", a), row("b", b), "fd_efflite0")
        assert found.distinguishable == (scipy.stats.ttest_rel(a, b).pvalue < 0.05)
        found = compare(row("a", a), row("b", b[:4]), "fd_efflite0")
        assert found.distinguishable == (scipy.stats.ttest_ind(a, b[:4], equal_var=False).pvalue < 0.05)


def test_one_seed_is_judged_by_its_bootstrap_interval() -> None:
    left = row("a", [100.0], fd_efflite0_low=98.0, fd_efflite0_high=102.0)
    near = row("b", [102.0], fd_efflite0_low=100.0, fd_efflite0_high=104.0)
    far = row("c", [104.0], fd_efflite0_low=102.0, fd_efflite0_high=106.0)
    assert compare(left, near, "fd_efflite0").distinguishable is False
    assert compare(left, far, "fd_efflite0").distinguishable is True


def test_one_seed_against_several_is_called_so() -> None:
    """The interval over samples knows nothing of other trainings, of which one side has only one."""
    ends = {"fd_efflite0_low": 99.0, "fd_efflite0_high": 101.0}
    found = compare(row("a", [100.0, 101.0, 99.0], **ends), replace_run(row("b", [120.0], **ends)), "fd_efflite0")
    assert found.distinguishable and found.method == "3 and 1 seeds; bootstrap interval"
    assert found.single_training == "a single training on one side" and found.single_training in found.text


def test_single_trainings_are_compared_sample_by_sample() -> None:
    """Intervals that overlap widely, and noise that the two share: only the pairs can tell them apart."""
    draw = random.Random(2)
    shared = [draw.gauss(0, 5) for _ in range(200)]
    ends = {"fd_efflite0_low": 90.0, "fd_efflite0_high": 110.0}

    def evaluated(name: str, value: float, n: int = 512) -> Row:
        deviations = [s + draw.gauss(0, 0.3) for s in shared]
        result = {"replicates": {"fd_efflite0": deviations}, "protocol": {"num_samples": n, "seed": 0}}
        record = Record(name, {}, {}, 0, f"run-{name}", name, {"fd_efflite0": value, **ends}, evaluation_result=result)
        return Row({"scheme": name}, (record,))

    found = compare(evaluated("a", 100.0), evaluated("b", 102.0), "fd_efflite0")
    assert found.distinguishable and "paired bootstrap" in found.text and "one training each" in found.text
    assert found.margin == pytest.approx(1.96 * 0.3 * 2**0.5, rel=0.15)
    assert compare(evaluated("a", 100.0), evaluated("b", 100.5), "fd_efflite0").distinguishable is False
    other = compare(evaluated("a", 100.0), evaluated("b", 102.0, n=324), "fd_efflite0")
    assert other.distinguishable is False and "paired" not in other.method


def test_caption_scores_of_other_images_are_no_pairs() -> None:
    def scored(name: str, judged: int) -> Row:
        protocol = {"num_samples": 512, "seed": 0, "spatial_relations": {"images": judged}}
        replicates = {metric: [0.1, -0.2, 0.1] for metric in ("spatial_relations", "fd_efflite0")}
        metrics = {metric: 1.0 for metric in replicates}
        result = {"replicates": replicates, "protocol": protocol}
        return Row({"scheme": name}, (Record(name, {}, {}, 0, name, name, metrics, evaluation_result=result),))

    def paired(judged: int, metric: str) -> bool:
        found = compare(scored("a", 40), scored("b", judged), metric)
        assert found is not None
        return "paired" in found.method

    assert [paired(40, "spatial_relations"), paired(39, "spatial_relations")] == [True, False]
    assert paired(39, "fd_efflite0")


def test_none_of_324_samples_is_not_told_from_four() -> None:
    """Fisher's exact test: p = 0.12 for 4, 0.002 for 10. All resamples of no hit give none."""
    weights = resamples(324, 500, 0)

    def copied(name: str, hits: int, rate: str = "memorisation_rate") -> Row:
        found = np.arange(324) < hits
        result = {"replicates": {rate: mean_deviations(found, weights).tolist()}, "protocol": {"num_samples": 324}}
        record = Record(name, {}, {}, 0, name, name, {rate: float(found.mean())}, evaluation_result=result)
        return Row({"scheme": name}, (record,))

    def told(left: int, right: int) -> bool | None:
        return compare(copied("a", left), copied("b", right), "memorisation_rate").distinguishable

    assert [told(0, 4), told(4, 0), told(0, 10), told(324, 320), told(324, 310)] == [False, False, True, False, True]
    assert copied("a", 0).value("memorisation_rate").reach[1] == pytest.approx(0.0117, abs=1e-4)


def test_shares_whose_seeds_are_all_alike_are_not_without_noise() -> None:
    """Of rare events: two of 324 samples more in every seed may be chance, six are not (Fisher: p = 0.14, 0.0003)."""

    def judged(more: int, ends: dict[str, float], metric: str = "memorisation_rate") -> bool | None:
        left, right = ([hits / 324 for hits in range(least, least + 3)] for least in (0, more))
        return compare(row("a", left, metric, **ends), row("b", right, metric, **ends), metric).distinguishable

    ends = {"memorisation_rate_low": 0.0, "memorisation_rate_high": 0.017}
    assert [judged(2, ends), judged(6, ends), judged(6, {})] == [False, True, None]
    assert judged(2, {}, "forward_memory_bytes") is True, "what is the same in every run has no noise"


def test_shares_are_compared_sample_by_sample() -> None:
    """The same samples are hits in both, but for ten more in one: McNemar's test has p = 0.002, Fisher's 0.48."""
    weights = resamples(324, 500, 0)
    rows = []
    for hits in (160, 170):
        deviations = mean_deviations(np.arange(324) < hits, weights).tolist()
        result = {"replicates": {"precision": deviations}, "protocol": {"num_samples": 324}}
        metrics = {"precision": hits / 324}
        record = Record(str(hits), {}, {}, 0, str(hits), "e", metrics, evaluation_result=result)
        rows.append(Row({"scheme": str(hits)}, (record,)))
    found = compare(*rows, "precision")
    assert found.distinguishable and found.margin == pytest.approx(1.96 * 10**0.5 / 324, rel=0.1)


def test_without_an_interval_the_kernel_distance_is_asked_and_named() -> None:
    left = row("a", [100.0], kid_efflite0=0.050, kid_efflite0_std=0.002)
    far = row("b", [110.0], kid_efflite0=0.060, kid_efflite0_std=0.002)
    opposed = row("c", [110.0], kid_efflite0=0.030, kid_efflite0_std=0.002)
    found = compare(left, far, "fd_efflite0")
    assert found.distinguishable is True and "KID-EffLite0" in found.method
    assert compare(left, opposed, "fd_efflite0").distinguishable is False


def test_unknown_noise_is_not_taken_for_a_difference() -> None:
    found = compare(row("a", [100.0]), row("b", [900.0]), "fd_efflite0")
    assert found.distinguishable is None and "noise unknown" in found.text
    assert compare(row("a", [1.0]), row("b", []), "fd_efflite0") is None


def test_counts_are_exact() -> None:
    found = compare(row("a", [2e6], "parameters"), row("b", [2e6 + 1], "parameters"), "parameters")
    assert found.distinguishable is True and found.method == "exact"


def test_coefficients_agree_with_scipy() -> None:
    draw = random.Random(1)
    for _ in range(20):
        x, y = [draw.randrange(5) for _ in range(7)], [draw.randrange(5) for _ in range(7)]
        assert kendall_tau(x, y) == pytest.approx(scipy.stats.kendalltau(x, y).statistic)
        assert pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic)
    assert kendall_tau([1.0], [1.0]) is None and pearson([1.0, 2.0], [1.0, 2.0]) is None
    assert kendall_tau([1, 1], [1, 2]) is None and pearson([1, 1, 1], [1, 2, 3]) is None
    equal, counted = [0.7] * 3, [1.0, 2.0, 3.0]  # a third of the sum is not 0.7
    assert pearson(equal, counted) is None and pearson(counted, equal) is None
