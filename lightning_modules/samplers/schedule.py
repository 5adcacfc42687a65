"""How many tokens stay masked after each step of parallel decoding."""

from __future__ import annotations

import math

import torch


def masked_share(schedule: str, progress: float) -> float:
    """Share still masked at `progress` in [0, 1]: 1 at the start, 0 at the end.

    cosine: cos(pi/2 r) (MaskGIT); amused: the same in single precision, as diffusers computes it, by which one token
    less stays masked after 2/3 of the way; linear: 1 - r; arccos: 2/pi arccos(r) (Halton scheduler, valeoai's MaskGIT).
    """
    match schedule:
        case "amused":
            return torch.cos(torch.tensor(progress, dtype=torch.float32) * math.pi / 2).item()
        case "cosine":
            return math.cos(math.pi / 2 * progress)
        case "linear":
            return 1 - progress
        case "arccos":
            return 2 / math.pi * math.acos(progress)
    raise ValueError(f"masking schedule '{schedule}' is not one of cosine, amused, linear, arccos.")


def masked_counts(schedule: str, steps: int, masked: int) -> list[int]:
    """Tokens still masked after each step, by MaskGIT's rule: floor(N share), at least one revealed and one left per
    step, none left at the end. Where a single one is left before the last step, the steps between reveal nothing.

    >>> counts = [16] + masked_counts("cosine", 4, 16)
    >>> [before - after for before, after in zip(counts, counts[1:])]
    [2, 3, 5, 6]
    """
    result, left = [], masked
    for step in range(1, steps):
        share = masked_share(schedule, step / steps)
        left = max(min(1, left), min(left - 1, math.floor(masked * share)))
        result.append(left)
    return [*result, 0]
