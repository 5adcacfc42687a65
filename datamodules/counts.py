"""How many training images a run takes, and whether they make a batch. Without numpy, for configurations."""

from __future__ import annotations

import math


def count_best(count: int, share: float) -> int:
    """How many of `count` images their best `share` is: at least one."""
    return max(1, math.ceil(share * count))


def count_subset(count: int, wanted: int) -> int:
    """How many of `count` images a subset of `wanted` has; 0 = all.

    Raises:
        ValueError: more are wanted than there are.
    """
    if wanted > count:
        raise ValueError(f"data.subset={wanted} is more than the {count} training images there are.")
    return wanted or count


def check_batch(count: int, size: int, parts: int) -> None:
    """Raise ValueError if an optimiser step takes more samples than there are.

    Args:
        count: N, samples.
        size: B*W*A, samples of a step.
        parts: W*A, which divide it.
    """
    if count < size:
        most = count // parts * parts
        way = f"trainer.batch_size={most}" if most else f"runtime.devices x trainer.accumulate={max(1, count)}"
        multiple = f" and a multiple of {parts}" if most and parts > 1 else ""
        raise ValueError(
            f"trainer.batch_size={size} needs more training images than the {count} there are; set {way} or "
            f"less{multiple}, or take more images."
        )


def check_share(share: float) -> None:
    """Raise ValueError where `data.best_share` is no share."""
    if not 0 < share <= 1:
        raise ValueError(f"data.best_share={share} must be in (0, 1].")
