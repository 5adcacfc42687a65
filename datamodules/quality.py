"""Scores of single images, and the share of a data set that scores best: what quality tuning trains on.

Published systems score with a network (LAION's aesthetic predictor); its scores belong in the store's scores.npy. The
embedded data are scored by two plain measures of the pixels.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from datamodules.counts import count_best


def colourfulness(images: np.ndarray) -> np.ndarray:
    """Hasler and Suesstrunk's M3 (SPIE 2003): spread plus 0.3 x mean of the opponent colours, (N, H, W, 3) -> (N,)."""
    red, green, blue = np.moveaxis(images.astype(np.float32), -1, 0)
    opponents = [red - green, (red + green) / 2 - blue]
    spread = np.sqrt(sum(channel.var((1, 2)) for channel in opponents))
    return spread + 0.3 * np.sqrt(sum(channel.mean((1, 2)) ** 2 for channel in opponents))


def edge_density(images: np.ndarray) -> np.ndarray:
    """Mean absolute difference of neighbouring pixels in grey levels of 0 .. 255, (N, H, W, 3) -> (N,)."""
    grey = images.astype(np.float32).mean(-1)
    return np.abs(np.diff(grey, axis=1)).mean((1, 2)) + np.abs(np.diff(grey, axis=2)).mean((1, 2))


SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"colourfulness": colourfulness, "edge_density": edge_density}


def best(scores: np.ndarray, share: float) -> np.ndarray:
    """Sorted indices of the `share` of highest finite scores, at least one; ties go to the first."""
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    return np.sort(order[: count_best(len(scores), share)])
