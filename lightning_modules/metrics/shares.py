"""Noise of shares of samples, down to shares of 0 and 1, where every resample gives the same."""

from __future__ import annotations

import math

NORMAL_95 = 1.96
ROUNDING = 1e-12
SHARES = frozenset(
    {
        "class_accuracy_efflite0",
        "memorisation_rate",
        "precision",
        "precision_efflite0",
        "recall",
        "recall_efflite0",
    }
)
"""Metrics that lie between 0 and 1, and their intervals with them."""


def share_interval(share: float, deviation: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of Wilson (1927).

    Args:
        share: measured, 0 to 1.
        deviation: its standard deviation over resamples; as many independent samples are counted as would have it.
        count: N samples, counted where no resample gives another share.
    """
    variance = share * (1 - share)
    effective = variance / deviation**2 if variance and deviation > ROUNDING else count
    weight = NORMAL_95**2 / effective
    middle = (share + weight / 2) / (1 + weight)
    reach = math.sqrt(weight * variance + weight**2 / 4) / (1 + weight)
    return max(0.0, middle - reach), min(1.0, middle + reach)
