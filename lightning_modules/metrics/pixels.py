"""Measures of the pixels themselves: any number that a function finds in samples and real images. Needs numpy only.

Each is taken of the samples and, for its floor, of as many real images in their place. They need no network, and say
nothing about what is in a picture.

Shapes: N samples, M reference images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CHUNK = 512
"""Images counted at a time."""


def colour_distance(samples: np.ndarray, real: np.ndarray) -> float:
    """Wasserstein-1 distance of the distributions of pixel values, 0 to 255, mean over red, green and blue.

    Too much guidance shows here as saturated colours, while features still find the right objects.
    """
    return float(np.abs(_cumulative(samples) - _cumulative(real)).sum(1).mean())


def _cumulative(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 -> (3, 256): share of values up to each, for every channel."""
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(images), CHUNK):  # numpy counts 64-bit copies of what it is given
        for channel, count in enumerate(counts):
            count += np.bincount(images[start : start + CHUNK, ..., channel].ravel(), minlength=256)
    return counts.cumsum(1) / counts.sum(1, keepdims=True)


PIXEL_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "colour_distance": colour_distance,
}
"""Metric -> function of samples (N, H, W, 3) uint8 and reference images (M, H, W, 3) uint8."""


def pixel_measures(samples: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """All of them."""
    return {name: measure(samples, real) for name, measure in PIXEL_MEASURES.items()}
