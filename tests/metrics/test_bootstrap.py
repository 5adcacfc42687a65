"""Intervals of sampling noise: derivatives against finite differences, spread against fresh samples."""

import numpy as np
import pytest
import torch

from lightning_modules.metrics.bootstrap import (
    frechet_deviations,
    frechet_influence,
    inception_score_deviations,
    interval,
    mean_deviations,
    resamples,
)
from lightning_modules.metrics.distribution import frechet_distance, inception_score


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
    found = inception_score_deviations(logits, splits=1, seed=0, weights=weights)
    exact = [inception_score(logits[np.repeat(np.arange(300), w.astype(int))], 1, 0).mean for w in weights]
    assert np.corrcoef(found, exact)[0, 1] > 0.95
    assert found.std() == pytest.approx(np.std(exact), rel=0.2) and found.mean() == pytest.approx(0, abs=1e-12)


def test_share_has_the_binomial_spread() -> None:
    hits = np.arange(400) % 4 == 0
    deviations = mean_deviations(hits, resamples(400, 2000, 0))
    low, high = interval(0.25, deviations)
    assert (high - low) / (2 * 1.96) == pytest.approx((0.25 * 0.75 / 400) ** 0.5, rel=0.06)


def test_resamples_depend_on_seed_and_count_alone() -> None:
    weights = resamples(50, 10, 3)
    assert (weights.sum(1) == 50).all() and np.array_equal(weights, resamples(50, 10, 3))
    assert not np.array_equal(weights, resamples(50, 10, 4))
