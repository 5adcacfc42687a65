"""Where two curves cross: from which size on one contender costs less than another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.errors import UserError, unknown
from lightning_modules.metrics.config import METRICS
from reports.aggregate import Row
from reports.quantities import quantity
from reports.reference import Checked


@dataclass(frozen=True)
class Crossing:
    """What is asked: where on axis `along` does `of` begin to beat the best of `against`, labels of axis `between`?"""

    metric: str
    along: str
    between: str
    of: str
    against: tuple[str, ...]


def parse_crossing(item: Any, axes: Mapping[str, Sequence[str]]) -> Crossing:
    """Read one entry of `report.crossing`. Raises UserError for unknown metrics, axes and labels."""
    body = Checked(item, "report.crossing").keys("metric", "along", "between", "of", "against").raw
    if body["metric"] not in METRICS:
        raise unknown("metric in report.crossing:", str(body["metric"]), METRICS)
    for axis in (body["along"], body["between"]):
        if axis not in axes:
            raise unknown("axis in report.crossing:", str(axis), axes)
    against = body["against"] if isinstance(body["against"], list) else [body["against"]]
    if not against or body["of"] in against:
        raise UserError(f"report.crossing: against must name one or more labels of {body['between']} other than of.")
    for label in (body["of"], *against):
        if label not in axes[body["between"]]:
            raise unknown(f"label of {body['between']} in report.crossing:", str(label), axes[body["between"]])
    if not all(is_positive(label) for label in axes[body["along"]]):
        raise UserError(f"report.crossing: the labels of {body['along']} must be numbers.")
    return Crossing(**{**body, "against": tuple(against)})


def crossing_notes(crossing: Crossing, rows: Sequence[Row]) -> list[str]:
    """One sentence for each combination of the other axes that has both contenders at two or more places."""
    contexts: dict[tuple[tuple[str, str], ...], dict[float, dict[str, float]]] = {}
    for row in rows:
        label, mean = row.labels.get(crossing.between), row.value(crossing.metric).mean
        if label not in (crossing.of, *crossing.against) or mean is None or crossing.along not in row.labels:
            continue
        rest = tuple((k, v) for k, v in row.labels.items() if k not in (crossing.along, crossing.between))
        place = contexts.setdefault(rest, {}).setdefault(float(row.labels[crossing.along]), {})
        place[label] = mean
    notes = []
    for rest, places in contexts.items():
        both = {x: dict(place) for x, place in sorted(places.items()) if crossing.of in place and len(place) > 1}
        if len(both) > 1:
            own = {x: place.pop(crossing.of) for x, place in both.items()}
            ratios = {x: own[x] / min(place.values()) for x, place in both.items()}
            measured = [label for label in crossing.against if any(label in place for place in both.values())]
            rivals = measured[0] if len(measured) == 1 else f"the best of {', '.join(measured)}"
            notes.append(_sentence(crossing, rivals, rest, ratios))
    return notes


def _sentence(crossing: Crossing, rivals: str, rest: tuple[tuple[str, str], ...], ratios: Mapping[float, float]) -> str:
    """ratios: place -> of / the best of the rivals, in order of the places."""
    where = "".join(f", {axis} {label}" for axis, label in rest)
    first, last = min(ratios), max(ratios)
    subject = f"{quantity(crossing.metric).plain}{where}: {crossing.of} "
    span = f"{crossing.along} measured, {first:g} to {last:g}"
    ends = f"{1 / ratios[first]:.2f}x at {first:g}, {1 / ratios[last]:.2f}x at {last:g}"
    found = list(_crossings(ratios))
    if not found:
        word = "less" if ratios[last] < 1 else "more"
        return f"{subject}needs {word} than {rivals} at every {span} ({ends} of its speed)."
    points = " and again at ".join(f"{x:.3g}" for x in found)
    return f"{subject}crosses {rivals} at {crossing.along} {points} (interpolated; {ends} of its speed)."


def _crossings(ratios: Mapping[float, float]) -> Iterator[float]:
    """Places at which the ratio passes 1, interpolated between neighbours on logarithmic scales."""
    points = [(math.log(x), math.log(ratio)) for x, ratio in ratios.items()]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if (y0 < 0) != (y1 < 0):
            yield math.exp(x0 + (x1 - x0) * y0 / (y0 - y1))


def is_positive(label: str) -> bool:
    """Whether an axis label is a number that has a logarithm."""
    try:
        return float(label) > 0
    except ValueError:
        return False
