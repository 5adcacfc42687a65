"""A fixed random part of the training images."""

from __future__ import annotations

import numpy as np

from datamodules.counts import count_subset


def choose_subset(count: int, wanted: int) -> np.ndarray:
    """Sorted indices of `wanted` of `count` images, always the same and each set within the larger ones; 0 = all.

    Raises:
        ValueError: more are wanted than there are.
    """
    chosen = count_subset(count, wanted)
    return np.sort(np.random.default_rng(0).permutation(count)[:chosen]) if wanted else np.arange(count)
