"""Two evaluations compared sample by sample: the noise that they share drops out of their difference.

An evaluation keeps, of every metric that it resampled, the deviations of its bootstrap replicates; the k-th replicate
of any evaluation with as many samples draws the same indices. Image i of two evaluations has the same class and, with
the same sampling seed, the same random numbers.
"""

from __future__ import annotations

import math
from typing import Any

from reports.aggregate import Row
from reports.records import Record

NORMAL_95 = 1.96


def paired_margin(left: Row, right: Row, metric: str, factor: float = 1.0) -> float | None:
    """Half-width of the 95 % interval of left - factor x right over samples.

    None unless each row is one training, with replicates of the same resamples.
    """
    found = [[record for record in row.measured if metric in record.metrics] for row in (left, right)]
    if any(len(records) != 1 for records in found):
        return None
    (a,), (b,) = found
    first, second = a.replicates(metric), b.replicates(metric)
    if len(first) < 2 or len(first) != len(second) or _draws(a) != _draws(b):
        return None
    deviations = [x - factor * y for x, y in zip(first, second, strict=True)]
    return NORMAL_95 * math.sqrt(sum(d * d for d in deviations) / (len(deviations) - 1))


def _draws(record: Record) -> tuple[Any, Any]:
    """What the resampled indices depend on."""
    return record.protocol.get("num_samples"), record.protocol.get("seed")
