"""Two evaluations compared sample by sample: the noise that they share drops out of their difference.

An evaluation keeps, of every metric that it resampled, the deviations of its bootstrap replicates; the k-th replicate
of any evaluation with as many samples draws the same indices, for a caption score with as many images that it can
judge. Image i of two evaluations has the same class and, with the same sampling seed, the same random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lightning_modules.metrics.config import CAPTIONED
from lightning_modules.metrics.shares import NORMAL_95, ROUNDING, SHARES
from reports.aggregate import Row, reaches
from reports.records import Record


def paired_margin(left: Row, right: Row, metric: str, factor: float = 1.0) -> float | None:
    """Half-width of the 95 % interval of left - factor x right over samples.

    Of shares, the longer side of Newcombe's (1998, method 10): from Wilson's intervals of both and the correlation of
    their replicates. None unless each row is one training, with replicates of the same resamples.
    """
    found = [[record for record in row.measured if metric in record.metrics] for row in (left, right)]
    if any(len(records) != 1 for records in found):
        return None
    (a,), (b,) = found
    first, second = a.replicates(metric), b.replicates(metric)
    if len(first) < 2 or len(first) != len(second) or _draws(a, metric) != _draws(b, metric):
        return None
    if metric in SHARES:
        low, high = reaches(a, metric)
        other_low, other_high = (factor * reach for reach in reaches(b, metric))
        shared = 2 * _correlation(first, second)
        return math.sqrt(
            max(
                low**2 + other_high**2 - shared * low * other_high,
                high**2 + other_low**2 - shared * high * other_low,
            )
        )
    deviations = [x - factor * y for x, y in zip(first, second, strict=True)]
    return NORMAL_95 * math.sqrt(sum(d * d for d in deviations) / (len(deviations) - 1))


def _correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Of deviations from their means; 0 where one of them does not vary."""
    norm = math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))
    return sum(a * b for a, b in zip(x, y, strict=True)) / norm if norm > ROUNDING**2 else 0.0


def _draws(record: Record, metric: str) -> tuple[Any, ...]:
    """What the resampled indices depend on; of a caption score, they are those of the images that it can judge."""
    protocol = record.protocol
    judged = protocol.get(CAPTIONED.get(metric, ""), {}).get("images")
    return protocol.get("num_samples"), protocol.get("seed"), judged
