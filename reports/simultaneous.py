"""Which rows of a column differ by more than noise, all pairs of them judged together at 95%.

Whichever row comes out best, its differences from the others are among those of all pairs: a procedure that holds for
these holds for a best one that the same numbers chose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache

from lightning_modules.metrics.shares import ROUNDING
from reports.aggregate import Value
from reports.uncertainty import CONFIDENCE


class AllPairs:
    """All differences between rows of two or more seeds: the procedure of Games and Howell (1976), that is Tukey's
    studentised range with the errors of each pair's own rows and Welch's degrees of freedom.

    Where all rows hold the same three seeds or more, what a seed does to all of them alike is taken out first. Of many
    rows with few seeds some come out quiet by chance, so that a pair must pass Tukey's margin too, by the noise of all
    rows together; of two rows that is the paired t-test.

    Args:
        values: of the rows, with two or more seeds each.
        rows: how many are compared in all, those of a single seed with them.
    """

    def __init__(self, values: Sequence[Value], rows: int):
        self._rows = rows
        self._means = [math.fsum(value.samples) / value.n for value in values]
        self._freedoms = [value.n - 1.0 for value in values]
        left, lost = _noise(values)
        squares = [math.fsum(x * x for x in line) for line in left]
        self._freedom = sum(self._freedoms) - lost
        self._shared = math.fsum(squares) / self._freedom
        share = self._freedom / sum(self._freedoms)
        self._errors = [
            total / (share * freedom * value.n)
            for total, freedom, value in zip(squares, self._freedoms, values, strict=True)
        ]
        """Squared standard error of each mean, by its own row."""
        self._counts = [value.n for value in values]

    def apart(self, left: int, right: int) -> bool | None:
        """Whether two rows, by their places among `values`, differ by more than noise; None where their own seeds show
        none."""
        delta = abs(self._means[left] - self._means[right])
        shared = self._shared * (1 / self._counts[left] + 1 / self._counts[right])
        a, b = self._errors[left], self._errors[right]
        if delta <= self._tukey * math.sqrt(shared / 2):
            return False
        if math.sqrt(a + b) <= ROUNDING:
            return None
        freedom = (a + b) ** 2 / (a**2 / self._freedoms[left] + b**2 / self._freedoms[right])
        from scipy.stats import studentized_range

        return float(studentized_range.sf(delta / math.sqrt((a + b) / 2), self._rows, freedom)) < 1 - CONFIDENCE

    @cached_property
    def _tukey(self) -> float:
        return _studentised_range(self._rows, self._freedom)


def _noise(values: Sequence[Value]) -> tuple[list[list[float]], int]:
    """What is left of every number beside the mean of its row, and of its seed where all rows hold the same three or
    more; and the degrees of freedom that the means of the seeds take."""
    left = [[x - math.fsum(value.samples) / value.n for x in value.samples] for value in values]
    seeds = sorted(values[0].seeds)
    if len(seeds) < 3 or any(sorted(value.seeds) != seeds for value in values):
        return left, 0
    table = [dict(zip(value.seeds, line, strict=True)) for value, line in zip(values, left, strict=True)]
    alike = {seed: math.fsum(line[seed] for line in table) / len(table) for seed in seeds}
    return [[line[seed] - alike[seed] for seed in seeds] for line in table], len(seeds) - 1


@lru_cache
def _studentised_range(rows: int, freedom: float) -> float:
    """What the range of so many means stays below with probability `CONFIDENCE`, in standard errors of one of them."""
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(CONFIDENCE, rows, freedom))
