"""Where two curves cross: from which size on one contender costs less than another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.errors import UserError, unknown
from lightning_modules.metrics.config import METRICS
from reports.aggregate import Row
from reports.contest import Contest
from reports.quantities import is_cost, is_time, quantity
from reports.reference import Checked

COSTS = tuple(name for name, known in METRICS.items() if is_cost(name) and known.better != "higher")
"""What can cross: of the others, more may be better, or nothing, or they may be 0."""


@dataclass(frozen=True)
class Crossing:
    """What is asked: where on axis `along` does `of` begin to beat the best of `against`, labels of axis `between`?"""

    metric: str
    along: str
    between: str
    of: str
    against: tuple[str, ...]


def parse_crossing(item: Any, axes: Mapping[str, Sequence[str]]) -> Crossing:
    """Read one entry of `report.crossing`.

    Raises:
        UserError: an unknown metric, axis or label, or a metric that is no cost.
    """
    body = Checked(item, "report.crossing").keys("metric", "along", "between", "of", "against").raw
    if body["metric"] not in METRICS:
        raise unknown("metric in report.crossing:", str(body["metric"]), COSTS)
    if body["metric"] not in COSTS:
        raise UserError(
            f"report.crossing: metric '{body['metric']}' is no cost; give one of which less is better, such as "
            "forward_seconds, forward_memory_bytes or flops."
        )
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


@dataclass(frozen=True)
class _Place:
    """One place on the axis at which all contenders are measured."""

    at: float
    ratio: float
    """of / the best of the rivals."""
    verdict: int
    """-1 where `of` needs less than every rival, +1 where it needs more than one of them, 0 within the noise."""
    judged: bool
    """The noise of the differences is known; else the verdict is that of the means."""


@dataclass(frozen=True)
class _Found:
    """The contenders at one place that can be compared there."""

    contest: Contest
    rows: Mapping[str, Row]
    """By their labels."""


def crossing_notes(crossing: Crossing, rows: Sequence[Row]) -> list[str]:
    """One sentence for each combination of the other axes that has all contenders at two or more places.

    A rival that is measured nowhere is no contender. A place where any of the others is missing, not comparable or not
    above 0 is left out and named: what the missing one needs there is not known. Of times of separate runs nothing is
    said.
    """
    contexts: dict[tuple[tuple[str, str], ...], dict[float, dict[str, Row]]] = {}
    for row in rows:
        if row.labels.get(crossing.between) in (crossing.of, *crossing.against) and crossing.along in row.labels:
            rest = tuple((k, v) for k, v in row.labels.items() if k not in (crossing.along, crossing.between))
            place = contexts.setdefault(rest, {}).setdefault(float(row.labels[crossing.along]), {})
            place[row.labels[crossing.between]] = row
    notes = []
    for rest, places in contexts.items():
        measured = {x: _find(crossing, found) for x, found in sorted(places.items())}
        if any(found.contest.timed_apart for found in measured.values()):
            continue
        rivals = [label for label in crossing.against if any(label in found.rows for found in measured.values())]
        whole = {x: found for x, found in measured.items() if {crossing.of, *rivals} <= found.rows.keys()}
        if rivals and len(whole) > 1:
            judged = [_judge(crossing, x, found, rivals) for x, found in whole.items()]
            missing = {
                x: [label for label in (crossing.of, *rivals) if label not in found.rows]
                for x, found in measured.items()
                if found.rows and x not in whole
            }
            notes.append(_sentence(crossing, rivals, rest, judged) + _left_out(crossing, missing))
    return notes


def _find(crossing: Crossing, place: Mapping[str, Row]) -> _Found:
    contest = Contest(list(place.values()), crossing.metric)
    means = {label: row.value(crossing.metric).mean or 0.0 for label, row in place.items() if row in contest.rows}
    return _Found(contest, {label: place[label] for label, mean in means.items() if mean > 0})


def _judge(crossing: Crossing, at: float, found: _Found, rivals: Sequence[str]) -> _Place:
    own = found.rows[crossing.of]
    means = {label: row.value(crossing.metric).mean or 0.0 for label, row in found.rows.items()}
    doubts = {label: found.contest.doubt(found.rows[label], own) for label in rivals}
    clear = [means[crossing.of] - means[label] for label in rivals if doubts[label] != "="]
    ratio = means[crossing.of] / min(means[label] for label in rivals)
    if any(delta > 0 for delta in clear):
        verdict = 1
    else:
        verdict = -1 if len(clear) == len(rivals) and ratio < 1 else 0
    return _Place(at, ratio, verdict, "?" not in doubts.values())


def _sentence(
    crossing: Crossing, rivals: Sequence[str], rest: tuple[tuple[str, str], ...], places: Sequence[_Place]
) -> str:
    """Args: places: in their order along the axis."""
    where = "".join(f", {axis} {label}" for axis, label in rest)
    against = rivals[0] if len(rivals) == 1 else f"the best of {', '.join(rivals)}"
    first, last = places[0], places[-1]
    of, power = ("speed", -1) if is_time(crossing.metric) else ("need", 1)
    ends = f"{first.ratio**power:.2f}x at {first.at:g}, {last.ratio**power:.2f}x at {last.at:g} of its {of}"
    if not all(place.judged for place in places):
        ends += "; the noise is not known"
    clear = [place for place in places if place.verdict]
    within = ", ".join(f"{place.at:g}" for place in places if not place.verdict)
    noise = f", within the noise at {within}" if within else ""
    every = f"{crossing.along} measured, {first.at:g} to {last.at:g}"
    turns = [(a, b) for a, b in zip(clear, clear[1:], strict=False) if a.verdict != b.verdict]
    if turns:
        neighbours = list(zip(places, places[1:], strict=False))
        points = [
            f"{_crossing(a, b):.3g}" if (a, b) in neighbours else f"between {a.at:g} and {b.at:g}" for a, b in turns
        ]
        said = f"crosses {against} at {crossing.along} {' and again at '.join(points)}{noise}"
        ends = f"interpolated; {ends}" if any(turn in neighbours for turn in turns) else ends
    elif clear:
        word = "less" if clear[0].verdict < 0 else "more"
        at = f"{crossing.along} {', '.join(f'{place.at:g}' for place in clear)}" if within else f"every {every}"
        said = f"needs {word} than {against} at {at}{noise}"
    else:
        said = f"cannot be told from {against} at any {every}"
    return f"{quantity(crossing.metric).plain}{where}: {crossing.of} {said} ({ends})."


def _crossing(a: _Place, b: _Place) -> float:
    """Where the ratio passes 1 between two neighbours, on logarithmic scales."""
    (x0, y0), (x1, y1) = ((math.log(place.at), math.log(place.ratio)) for place in (a, b))
    return math.exp(x0 + (x1 - x0) * y0 / (y0 - y1))


def _left_out(crossing: Crossing, missing: Mapping[float, Sequence[str]]) -> str:
    listed = ", ".join(f"{x:g} (without {' and '.join(labels)})" for x, labels in missing.items())
    return f" Left out: {crossing.along} {listed}." if listed else ""


def is_positive(label: str) -> bool:
    """Whether an axis label is a number that has a logarithm."""
    try:
        return float(label) > 0
    except ValueError:
        return False
