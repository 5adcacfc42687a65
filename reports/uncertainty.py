"""Is a difference more than noise? One answer, and the method behind it, for every comparison in a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_modules.metrics.shares import NORMAL_95, ROUNDING, SHARES
from reports.aggregate import Row, Value
from reports.comparable import incomparable
from reports.quantities import EXACT, is_cost, quantity
from reports.resampling import paired_margin

CONFIDENCE = 0.95
ALMOST_ONE = 1 - 1e-12
STAND_IN_FOR_NOISE = {"fd_efflite0": "kid_efflite0", "fid": "kid"}
"""Where a distance carries no interval of its own, the kernel distance on the same features is asked instead."""


@dataclass(frozen=True)
class Difference:
    """left - right (or left - factor x right), and whether it can be told from noise."""

    delta: float
    margin: float | None
    """Half-width of the 95% interval of the difference; None = not known."""
    distinguishable: bool | None
    """None: there is nothing to judge the noise by, or the two are not comparable."""
    method: str
    single_training: str = ""
    """In words, where one side or each is one training of one seed: that samples can be told apart, or cannot, says
    nothing of the settings."""
    freedom: float = math.inf
    """Degrees of freedom of the t distribution that the margin comes from; infinite: the normal one."""
    stand_in: Difference | None = None
    """The difference in another quantity that this one is judged by."""
    comparable: bool = True
    """Else the two were measured in different ways: by `method`, which then says in which."""

    def margin_among(self, comparisons: int) -> float | None:
        """The margin as one of so many comparisons, any of which might be distinguishable by chance.

        Bonferroni: each at 1 - 5% / comparisons.
        """
        from scipy.special import stdtrit

        if not self.margin:
            return self.margin
        tail = (1 - CONFIDENCE) / 2
        return self.margin * float(stdtrit(self.freedom, 1 - tail / comparisons) / stdtrit(self.freedom, 1 - tail))

    def stands_among(self, comparisons: int) -> bool:
        """Whether it is distinguishable still as one of so many comparisons."""
        judged = self.stand_in or self
        wider = judged.margin_among(comparisons)
        return bool(self.distinguishable) and wider is not None and abs(judged.delta) > wider

    @property
    def text(self) -> str:
        """The verdict in words."""
        if not self.comparable:
            return f"not comparable ({self.method})"
        if self.distinguishable is None:
            return f"noise unknown ({self.method})"
        said = f"{'distinguishable' if self.distinguishable else 'not distinguishable'} ({self.method})"
        if self.distinguishable and self.single_training:
            return f"{said}; {self.single_training}, so chance in training is not ruled out"
        return said


def compare(left: Row, right: Row, metric: str, factor: float = 1.0) -> Difference | None:
    """Compare two rows on one quantity; None if either has no measurement of it.

    Args:
        factor: of the right one. A ratio left / right lies above a bound where left - bound x right lies above 0, with
            the noise of both in it (Fieller).
    """
    a, b = left.value(metric), right.value(metric)
    if factor != 1.0:
        scaled = tuple(None if error is None else factor * error for error in b.errors)
        b = replace(b, samples=tuple(factor * sample for sample in b.samples), errors=scaled)
    if a.mean is None or b.mean is None:
        return None
    delta = a.mean - b.mean
    if why := incomparable(left, right, metric):
        return Difference(delta, None, None, why, comparable=False)
    if metric in EXACT:
        return Difference(delta, 0.0, delta != 0, "exact")
    if a.n > 1 and b.n > 1:
        difference = _over_seeds(a, b, delta)
        silent = metric in SHARES and difference.margin is not None and difference.margin <= ROUNDING
        return _alike(a, b, delta) if silent else difference
    each = a.n == b.n == 1
    seeds = "one seed" if each else f"{a.n} and {b.n} seeds"
    if (margin := paired_margin(left, right, metric, factor)) is not None:
        difference = Difference(delta, margin, abs(delta) > margin, f"{seeds}; paired bootstrap over samples")
    elif (margin := _margin_of_one(a, b)) is not None:
        source = "interval over repetitions" if a.error_source == "repetitions" else f"{seeds}; {a.error_source}"
        difference = Difference(delta, margin, abs(delta) > margin, source)
    else:
        difference = _through_stand_in(left, right, metric if factor == 1.0 else "", delta, seeds)
    if is_cost(metric) or {r.run_id for r in left.measured} == {r.run_id for r in right.measured}:
        return difference
    return replace(difference, single_training="one training each" if each else "a single training on one side")


def _over_seeds(a: Value, b: Value, delta: float) -> Difference:
    """Paired t-test where both rows hold the same seeds, else Welch's."""
    from scipy.special import stdtrit

    if sorted(a.seeds) == sorted(b.seeds) and a.n > 2:
        other = dict(zip(b.seeds, b.samples, strict=True))
        differences = [x - other[seed] for seed, x in zip(a.seeds, a.samples, strict=True)]
        mean = sum(differences) / a.n
        variance = sum((d - mean) ** 2 for d in differences) / (a.n - 1)
        error, freedom, method = math.sqrt(variance / a.n), a.n - 1.0, f"paired t-test, {a.n} seeds"
    else:
        assert a.std is not None and b.std is not None
        va, vb = a.std**2 / a.n, b.std**2 / b.n
        error, method = math.sqrt(va + vb), f"Welch's t-test, {a.n} and {b.n} seeds"
        freedom = (va + vb) ** 2 / (va**2 / (a.n - 1) + vb**2 / (b.n - 1)) if error else 1.0
    margin = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error
    return Difference(delta, margin, abs(delta) > margin, method, freedom=freedom)


def _alike(a: Value, b: Value, delta: float) -> Difference:
    """Of shares whose seeds all differ alike, as those of rare events among few samples often do: they say nothing of
    the noise, so that of the samples is asked."""
    margin, seeds = _margin_of_one(a, b), f"{a.n} and {b.n} seeds, all alike"
    if margin is None:
        return Difference(delta, None, None, f"{seeds}, no interval")
    return Difference(delta, margin, abs(delta) > margin, f"{seeds}; {a.error_source}")


def _margin_of_one(a: Value, b: Value) -> float | None:
    """95% margin from the noise that the evaluations report themselves; it knows nothing of the spread over seeds."""
    errors = [*a.errors, *b.errors]
    if a.error_source != b.error_source or any(error is None for error in errors):
        return None
    means = [math.fsum(e * e for e in v.errors if e is not None) / v.n**2 for v in (a, b)]
    return NORMAL_95 * math.sqrt(sum(means))


def _through_stand_in(left: Row, right: Row, metric: str, delta: float, seeds: str) -> Difference:
    stand_in = STAND_IN_FOR_NOISE.get(metric)
    if stand_in:
        a, b = left.value(stand_in), right.value(stand_in)
        if a.mean is not None and b.mean is not None and (margin := _margin_of_one(a, b)) is not None:
            other = a.mean - b.mean
            method = f"{seeds}; judged by {quantity(stand_in).plain}, {a.error_source}"
            judged = Difference(other, margin, abs(other) > margin, method)
            clear = abs(other) > margin and other * delta > 0
            return replace(judged, delta=delta, margin=None, distinguishable=clear, stand_in=judged)
    return Difference(delta, None, None, f"{seeds}, no interval")


def kendall_tau(left: Sequence[float], right: Sequence[float], within: Sequence[Any] = ()) -> float | None:
    """Kendall's tau-b between two rankings of the same things; None with fewer than two, or where one is all ties.

    Args:
        within: the group of each thing, where only those of one group are held against each other.
    """
    concordant = ties_left = ties_right = 0
    pairs = [(i, j) for i in range(len(left)) for j in range(i) if not within or within[i] == within[j]]
    for i, j in pairs:
        a, b = left[i] - left[j], right[i] - right[j]
        concordant += (a * b > 0) - (a * b < 0)
        ties_left += a == 0
        ties_right += b == 0
    norm = math.sqrt((len(pairs) - ties_left) * (len(pairs) - ties_right))
    return concordant / norm if norm else None


def pearson(x: list[float], y: list[float]) -> float | None:
    """Correlation coefficient; None with fewer than three points or without spread."""
    n = len(x)
    mean_x, mean_y = sum(x) / n if n else 0.0, sum(y) / n if n else 0.0
    sxx = sum((a - mean_x) ** 2 for a in x)
    syy = sum((b - mean_y) ** 2 for b in y)
    # Where all are equal their mean may still be off by a rounding error.
    if n < 3 or len(set(x)) < 2 or len(set(y)) < 2 or not sxx or not syy:
        return None
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / math.sqrt(sxx * syy)


def correlation_interval(r: float, count: int) -> tuple[float, float]:
    """The 95% interval of Pearson's r over more than three points, by Fisher's z: few points scatter widely even where
    two quantities have nothing to do with each other."""
    z, reach = math.atanh(max(-ALMOST_ONE, min(r, ALMOST_ONE))), NORMAL_95 / math.sqrt(count - 3)
    return math.tanh(z - reach), math.tanh(z + reach)
