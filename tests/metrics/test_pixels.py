"""Measures of the pixels: against scipy, and that the registry and the metrics agree."""

import tracemalloc

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from lightning_modules.metrics.config import METRICS
from lightning_modules.metrics.pixels import PIXEL_MEASURES, colour_distance, pixel_measures


def images(seed: int, count: int, high: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, (count, 8, 8, 3), dtype=np.uint8)


def test_colour_distance_is_the_mean_wasserstein_distance_of_the_channels():
    a, b = images(0, 5, 256), images(1, 9, 180)
    expected = np.mean([wasserstein_distance(a[..., c].ravel(), b[..., c].ravel()) for c in range(3)])
    assert colour_distance(a, b) == pytest.approx(expected) and expected > 10
    assert colour_distance(a, a[:, ::-1]) == 0
    assert colour_distance(b, b + 7) == pytest.approx(7)


def test_every_measure_is_described():
    assert set(pixel_measures(images(0, 4, 256), images(1, 4, 256))) == set(PIXEL_MEASURES) <= set(METRICS)


def test_many_images_are_counted_in_small_parts():
    """Fifty thousand of 256 pixels, counted at once, would take 26 GB."""
    many = np.zeros((4096, 16, 16, 3), np.uint8)
    tracemalloc.start()
    colour_distance(many, many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < many.nbytes
