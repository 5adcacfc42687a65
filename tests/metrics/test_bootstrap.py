"""Intervals of sampling noise: derivatives against finite differences, spread against fresh samples."""

import numpy as np
import pytest
import torch

from lightning_modules.metrics import bootstrap, manifold
from lightning_modules.metrics.bootstrap import (
    expanded_deviations,
    frechet_deviations,
    frechet_influence,
    inception_score_influence,
    interval,
    intervals,
    kernel_influence,
    mean_deviations,
    resamples,
    subset_stretch,
)
from lightning_modules.metrics.config import MetricsConfig
from lightning_modules.metrics.distribution import frechet_distance, inception_score, kernel_distance, precision_recall
from lightning_modules.metrics.efficientnet import LAYER
from lightning_modules.metrics.manifold import inside, recall_influence
from lightning_modules.metrics.measures import Expected, measure, subset_size
from lightning_modules.metrics.shares import share_interval

GOLDEN = [[2.0, 1.0, 0.0, 1.0], [0.0, 1.0, 2.0, 1.0], [0.0, 2.0, 2.0, 0.0]]


def weighted_frechet(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """The distance with sample i counted w_i times (any real number), by definition."""
    mean = w @ x / w.sum()
    s1, s2 = (x - mean).T @ ((x - mean) * w[:, None]) / (len(x) - 1), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(s2)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ s1 @ root).clip(0)).sum()
    return np.sum((mean - y.mean(0)) ** 2) + np.trace(s1) + np.trace(s2) - 2 * cross


@pytest.mark.parametrize("count,width", [(60, 12), (20, 20), (12, 30)])
def test_influence_is_the_derivative_by_the_weights(count: int, width: int) -> None:
    generator = np.random.default_rng(count)
    mixing = generator.normal(size=(width, width))
    x, y = generator.normal(size=(count, width)) @ mixing + 0.3, generator.normal(size=(80, width)) @ mixing
    found = frechet_influence(x, y)
    assert found.mean() == pytest.approx(0, abs=1e-9 * np.abs(found).max())
    for i in (0, count // 2):
        step = 1e-4
        change = np.full(count, -step / count)  # towards sample i, the sum of the weights unchanged
        change[i] += step
        ends = [weighted_frechet(x, y, 1 + sign * change) for sign in (1, -1)]
        # The covariance is divided by N - 1, so a weight counts as N / (N - 1) in its part; of that order is the error.
        assert (ends[0] - ends[1]) / (2 * step) * count == pytest.approx(found[i], rel=3 / count + 0.02)


def square_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values.clip(0)) @ vectors.T


@pytest.mark.parametrize("count,width", [(60, 6), (12, 30)])
def test_influence_is_what_its_formula_says(count: int, width: int) -> None:
    """With the transport map written out where there is one, else from the N x N side."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(count, width)) + 0.3, 1.5 * generator.normal(size=(80, width))
    delta, c, s_y = x.mean(0) - y.mean(0), x - x.mean(0), np.cov(y, rowvar=False)
    if count > width:
        root = square_root(s_y)
        transport = root @ np.linalg.inv(square_root(root @ np.cov(x, rowvar=False) @ root)) @ root
        moved = np.einsum("id,de,ie->i", c, transport, c)
    else:
        moved = (count - 1) * np.diag(square_root(c @ s_y @ c.T / (count - 1)))
    expected = 2 * c @ delta + np.square(c).sum(1) - moved
    np.testing.assert_allclose(frechet_influence(x, y), expected - expected.mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count,width,tolerance", [(400, 20, 1.5), (60, 100, 2.0)])
def test_spread_is_that_of_fresh_samples(count: int, width: int, tolerance: float) -> None:
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(width, width)) / width**0.5 * np.exp(-np.arange(width) / (width / 4))[:, None]
    y = torch.from_numpy(generator.normal(size=(500, width)) @ mixing)
    drawn = [torch.from_numpy(generator.normal(size=(count, width)) @ mixing * 1.3 + 0.1) for _ in range(30)]
    true = np.std([frechet_distance(x, y) for x in drawn], ddof=1)
    found = [frechet_deviations(x, y, resamples(count, 200, 0)).std(ddof=1) for x in drawn[:3]]
    assert true / tolerance < np.mean(found) < true * tolerance


def test_inception_score_moves_with_the_weights() -> None:
    logits = 2 * torch.randn(300, 20, generator=torch.Generator().manual_seed(0))
    weights = resamples(300, 40, 0)
    found = expanded_deviations(inception_score_influence(logits, splits=1, seed=0), weights)
    exact = [inception_score(logits[np.repeat(np.arange(300), w.astype(int))], 1, 0).mean for w in weights]
    assert np.corrcoef(found, exact)[0, 1] > 0.95
    assert found.std() == pytest.approx(np.std(exact), rel=0.2) and found.mean() == pytest.approx(0, abs=1e-12)


def test_one_split_of_the_inception_score_moves_as_the_jackknife_says() -> None:
    logits = 2 * torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    without = [np.log(inception_score(torch.cat([logits[:i], logits[i + 1 :]]), 1, 0).mean) for i in range(30)]
    exact = inception_score(logits, 1, 0).mean * 29 * (np.mean(without) - np.array(without))
    np.testing.assert_allclose(inception_score_influence(logits, 1, 0), exact, rtol=1e-4)


def test_the_noise_of_the_inception_score_is_no_less_than_the_spread_of_its_splits() -> None:
    """Here more, as the last split is of a kind of its own."""
    logits = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    logits[np.random.RandomState(5).permutation(60)[40:], 0] += 9
    splits = inception_score(logits, 3, 5)
    error = np.sqrt(np.square(inception_score_influence(logits, 3, 5)).sum()) / 60
    assert error == pytest.approx(splits.std * np.sqrt(3 / 2) / np.sqrt(3), rel=1e-6)


@pytest.mark.parametrize(("count", "classes", "sure"), [(100, 20, 5), (100, 200, 8), (500, 200, 8)])
def test_intervals_of_the_inception_score_cover_it(count: int, classes: int, sure: float) -> None:
    """Also where a split has fewer images than there are classes."""
    draw = torch.Generator().manual_seed(count)
    scores, errors = [], []
    for _ in range(150):
        logits = torch.randn(count, classes, generator=draw)
        logits[torch.arange(count), torch.randint(classes, (count,), generator=draw)] += sure
        scores.append(inception_score(logits, 10, 0).mean)
        errors.append(np.sqrt(np.square(inception_score_influence(logits, 10, 0)).sum()) / count)
    covered = np.abs(np.array(scores) - np.mean(scores)) < 1.96 * np.array(errors)
    assert 0.91 < covered.mean() and np.mean(errors) < 1.4 * np.std(scores, ddof=1)


def test_an_interval_is_of_the_deviations_about_the_measured_value() -> None:
    assert interval(5.0, np.array([1.0, -1.0])) == pytest.approx((5 - 1.96 * 2**0.5, 5 + 1.96 * 2**0.5))


def test_share_has_the_binomial_spread() -> None:
    hits = np.arange(400) % 4 == 0
    deviations = mean_deviations(hits, resamples(400, 2000, 0))
    low, high = interval(0.25, deviations)
    assert (high - low) / (2 * 1.96) == pytest.approx((0.25 * 0.75 / 400) ** 0.5, rel=0.06)


def test_resamples_depend_on_seed_and_count_alone() -> None:
    weights = resamples(50, 10, 3)
    assert resamples(4, 3, 3).tolist() == GOLDEN, "those that are stored could not be paired with others"
    assert (weights.sum(1) == 50).all() and np.array_equal(weights, resamples(50, 10, 3))
    assert not np.array_equal(weights, resamples(50, 10, 4))


# --- measures that take single reference images -----------------------------------------------------------------------


def weighted_mmd(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """The unbiased squared MMD with sample i counted w_i times (any real number)."""
    own, cross = (x @ x.T / x.shape[1] + 1) ** 3, (x @ y.T / x.shape[1] + 1) ** 3
    pairs = np.outer(w, w) * (1 - np.eye(len(x)))
    return float((pairs * own).sum() / pairs.sum() - 2 * (w @ cross).sum() / (w.sum() * len(y)))


def test_kernel_influence_is_the_derivative_by_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "BLOCK", 7)
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 8)) + 0.3, generator.normal(size=(80, 8))
    found = kernel_influence(x, y)
    for i in (0, 31, 59):
        step = 1e-4
        change = np.full(60, -step / 60)
        change[i] += step
        ends = [weighted_mmd(x, y, 1 + sign * change) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / (2 * step) * 60 == pytest.approx(found[i], rel=0.05)


def test_the_choice_of_subsets_widens_noise_where_it_counts() -> None:
    found = [subset_stretch(*sizes) for sizes in ((50_000, 100, 1000), (6000, 100, 1000), (2000, 100, 1000))]
    assert found == pytest.approx([1.49**0.5, 1.05**0.5, 1.0], rel=1e-12)


def test_a_kernel_distance_of_few_subsets_has_the_noise_of_their_choice() -> None:
    generator = np.random.default_rng(0)
    y, config = torch.from_numpy(generator.normal(size=(100, 4))), MetricsConfig(kid_subsets=4)

    def samples() -> torch.Tensor:
        return torch.from_numpy(1.2 * generator.normal(size=(1000, 4)) + 0.5)

    weights = resamples(1000, config.bootstrap, config.seed)
    found = measure({LAYER: samples()}, Expected({LAYER: y}), config, weights).replicates["kid_efflite0"]
    spread = np.std([kernel_distance(samples(), y, 4, subset_size(1000, 100), config.seed).mean for _ in range(150)])
    assert found.std() == pytest.approx(spread, rel=0.25)


def _clouds(seed: int, count: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("copies", [1, 2])
def test_precision_is_the_share_inside_and_recall_moves_as_the_jackknife_says(
    copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifold, "BLOCK", 25)
    real, samples = _clouds(0, 90), (0.7 * _clouds(1, 60 // copies) + 0.4).repeat(copies, 1)
    precision, recall = precision_recall(samples, real)
    assert inside(samples, real).mean() == pytest.approx(precision)
    without = [precision_recall(torch.cat([samples[:i], samples[i + 1 :]]), real)[1] for i in range(60)]
    exact = 59 * (recall - np.array(without))
    assert recall_influence(samples, real) == pytest.approx(exact - exact.mean(), abs=1e-5)


def test_equal_points_do_not_count_as_their_own_neighbours() -> None:
    """A generator that repeats itself: the balls around copies have no extent, and nothing breaks."""
    samples = _clouds(1, 10).repeat(6, 1)
    assert np.isfinite(recall_influence(samples, _clouds(0, 50))).all()
    assert inside(_clouds(0, 5), _clouds(0, 5).repeat(4, 1)).all()


def test_spread_of_recall_is_that_of_fresh_samples() -> None:
    real = _clouds(0, 300)
    drawn = [0.8 * _clouds(seed, 120) + 0.3 for seed in range(1, 31)]
    true = np.std([precision_recall(x, real)[1] for x in drawn], ddof=1)
    weights = resamples(120, 200, 0)
    found = [expanded_deviations(recall_influence(x, real), weights).std(ddof=1) for x in drawn[:4]]
    assert true / 1.6 < np.mean(found) < true * 1.6


@pytest.mark.parametrize(("hits", "low", "high"), [(0, 0.0, 0.011718), (324, 0.988282, 1.0), (162, 0.4459, 0.5541)])
def test_shares_have_intervals_down_to_none_and_all(hits: int, low: float, high: float) -> None:
    """Wilson's: of none, up to z^2 / (N + z^2). The bootstrap alone has [0, 0] there: no resample of no hit has one."""
    found = np.arange(324) < hits
    drawn = {"memorisation_rate": mean_deviations(found, resamples(324, 4000, 0))}
    ends = intervals({"memorisation_rate": float(found.mean())}, drawn, 324)
    assert ends["memorisation_rate_low"] == pytest.approx(low, abs=2e-3 if 0 < hits < 324 else 1e-5)
    assert ends["memorisation_rate_high"] == pytest.approx(high, abs=2e-3 if 0 < hits < 324 else 1e-5)


def test_a_deviation_of_rounding_alone_is_none() -> None:
    assert share_interval(0.5, 1e-16, 100) == share_interval(0.5, 0.0, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
