"""Judges the papers' claims by measured numbers: supported, contradicted, undecided or not measured, with evidence.

A claim about axes that it does not mention is judged once for every combination of their labels that has the rows it
names; one contradiction contradicts it. Support needs every comparison at 95%, a contradiction one that stands out
among all that were made. Where the quantity a claim speaks of was not measured, the named stand-in is used, and said
so. Times of separate runs decide nothing, nor do rows that were not measured in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from reports.aggregate import Row, among, in_words, select, shared_labels
from reports.comparable import set_apart
from reports.contest import TIMED_APART, timed_apart
from reports.quantities import STAND_INS, quantity
from reports.records import named
from reports.reference import Claim, ReferenceTable
from reports.uncertainty import compare, correlation_interval, kendall_tau, pearson

Judgement = Literal["supported", "contradicted", "undecided", "not measured"]


@dataclass(frozen=True)
class Verdict:
    """A claim and what the measurements say about it."""

    claim: Claim
    judgement: Judgement
    evidence: tuple[str, ...] = ()
    tau: float | None = None
    """Kendall's tau between the claimed order and ours (kind order)."""
    stand_in: str = ""
    """Name of the quantity used in place of the claim's, or ""."""

    def as_json(self) -> dict[str, Any]:
        """As it stands in provenance.json, and as `ablate report --json` prints it."""
        return {
            "id": self.claim.id,
            "text": self.claim.text,
            "judgement": self.judgement,
            "evidence": list(self.evidence),
            "tau": self.tau,
        }


@dataclass(frozen=True)
class _Ground:
    """What one judgement stands on."""

    rows: Sequence[Row]
    metric: str
    contexts: int = 1
    """Judgements of the same claim beside this one, itself included."""
    is_stand_in: bool = False
    """The metric stands in for the one that the claim speaks of."""

    @property
    def sign(self) -> int:
        """+1 where lower is better."""
        return -1 if quantity(self.metric).better == "higher" else 1

    def one(self, labels: Mapping[str, str]) -> Row | None:
        """The row with these labels, if exactly one has them."""
        found = select(self.rows, labels)
        return found[0] if len(found) == 1 else None

    def show(self, left: Row, right: Row, between: str = "against") -> str:
        """Two rows and their numbers in words; what they share is said once."""
        shared = shared_labels([left, right])
        context = ", ".join(named(axis, label) for axis, label in shared.items())
        sides = f"{self._number(left, shared)} {between} {self._number(right, shared)}"
        return f"{context}: {sides}" if context else sides

    def _number(self, row: Row, shared: Collection[str]) -> str:
        known, value = quantity(self.metric), row.value(self.metric)
        name = ", ".join(named(axis, label) for axis, label in row.labels.items() if axis not in shared)
        if value.mean is None:
            return f"{name} ({value.note})"
        text = known.text(value.mean) if value.std is None else known.spread(value.mean, value.std)
        return f"{name} ({text}{f', {value.note}' if value.note else ''})"


def judge(claim: Claim, rows: Sequence[Row]) -> Verdict:
    """Judge one claim by the rows of a sweep."""
    axes = _axes_of(claim)
    known = {axis for row in rows for axis in row.labels}
    if missing := sorted((axes | set(claim.where)) - known):
        return Verdict(claim, "not measured", (f"this sweep does not vary {', '.join(missing)}",))
    rows = among(rows, claim.where)
    metric = _metric(claim.metric, rows)
    stand_in = quantity(metric).plain if metric != claim.metric else ""
    contexts: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        rest = tuple((axis, label) for axis, label in row.labels.items() if axis not in axes)
        contexts.setdefault(() if claim.kind == "correlation" else rest, []).append(row)
    if not contexts:
        return Verdict(claim, "not measured", (f"no row of {in_words(claim.where)} at this scale",))
    grounds = [inside for inside in contexts.values() if _has_all(claim, inside)] or list(contexts.values())
    verdicts = [
        _JUDGES[claim.kind](claim, _Ground(inside, metric, len(grounds), metric != claim.metric)) for inside in grounds
    ]
    verdict = replace(_combine(claim, verdicts), stand_in=stand_in)
    if verdict.judgement != "not measured" and any(timed_apart(rows, name) for name in (metric, claim.x)):
        return replace(verdict, judgement="undecided", evidence=(TIMED_APART, *verdict.evidence), tau=None)
    return verdict


def agreement(table: ReferenceTable, column: str, rows: Sequence[Row], metric: str) -> tuple[float | None, int]:
    """Kendall's tau between the published numbers and ours, and the number of comparable rows that have both.

    Rows that differ on an axis that the paper does not vary stand beside the same published numbers: only those with
    equal labels there are held against each other.
    """
    pairs, contexts = [], []
    varied = {axis for published in table.rows for axis in published.match}
    for row in rows:
        published, ours = table.row_for(row.labels), None if set_apart(row, metric) else row.value(metric).mean
        value = published.values.get(column) if published else None
        if value is not None and ours is not None:
            pairs.append((value, ours))
            contexts.append({axis: label for axis, label in row.labels.items() if axis not in varied})
    opposed = {table.columns[column].better, quantity(metric).better} == {"lower", "higher"}
    flip = -1 if opposed else 1
    return kendall_tau([p for p, _ in pairs], [flip * o for _, o in pairs], contexts), len(pairs)


def _axes_of(claim: Claim) -> set[str]:
    if claim.kind == "best":
        return {claim.axis}
    return {axis for labels in (*claim.order, claim.left, claim.right) for axis in labels}


def _has_all(claim: Claim, rows: Sequence[Row]) -> bool:
    """Whether the sweep has, at this scale, every row that the claim names, measured or not."""
    best = {claim.axis: claim.label} if claim.kind == "best" else {}
    return all(select(rows, labels) for labels in (*claim.order, claim.left, claim.right, best) if labels)


def _metric(name: str, rows: Sequence[Row]) -> str:
    for candidate in (name, *STAND_INS.get(name, ())):
        if any(row.value(candidate).n for row in rows):
            return candidate
    return name


def _combine(claim: Claim, verdicts: Sequence[Verdict]) -> Verdict:
    found = {verdict.judgement for verdict in verdicts} or {"not measured"}
    order: tuple[Judgement, ...] = ("contradicted", "undecided", "supported", "not measured")
    judgement: Judgement = next(word for word in order if word in found)
    if judgement == "supported" and "not measured" in found:
        judgement = "undecided"
    taus = [verdict.tau for verdict in verdicts if verdict.tau is not None]
    evidence = tuple(dict.fromkeys(line for verdict in verdicts for line in verdict.evidence))
    return Verdict(claim, judgement, evidence, sum(taus) / len(taus) if taus else None)


# --- kinds ------------------------------------------------------------------------------------------------------------


def _beats(left: Row, right: Row, ground: _Ground, comparisons: int) -> tuple[int | None, str]:
    """+1 left is distinguishably better, -1 worse (as one of so many comparisons), 0 cannot be told, None not measured;
    and the evidence."""
    shown = ground.show(left, right)
    difference = compare(left, right, ground.metric)
    if difference is None:
        return None, shown
    if not difference.distinguishable or difference.single_training:
        return 0, f"{shown}: {difference.text}"
    if difference.delta * ground.sign < 0:
        return 1, f"{shown}: {difference.text}"
    if not difference.stands_among(comparisons):
        return 0, f"{shown}: {difference.text}, but not as one of {comparisons} comparisons"
    return -1, f"{shown}: {difference.text}"


def _from_pairs(claim: Claim, pairs: Sequence[tuple[Row, Row]], ground: _Ground, tau: float | None) -> Verdict:
    results = [_beats(left, right, ground, len(pairs) * ground.contexts) for left, right in pairs]
    scores = [score for score, _ in results]
    if all(score is None for score in scores):
        judgement: Judgement = "not measured"
    elif -1 in scores:
        judgement = "contradicted"
    else:
        judgement = "supported" if all(score == 1 for score in scores) else "undecided"
    return Verdict(claim, judgement, tuple(text for _, text in results), tau)


def _best(claim: Claim, ground: _Ground) -> Verdict:
    winner = ground.one({claim.axis: claim.label})
    rivals = [row for row in ground.rows if row is not winner]
    if winner is None or not rivals:
        return Verdict(claim, "not measured", (f"this sweep has no {claim.axis} {claim.label} to compare",))
    return _from_pairs(claim, [(winner, rival) for rival in rivals], ground, None)


def _order(claim: Claim, ground: _Ground) -> Verdict:
    found = [ground.one(labels) for labels in claim.order]
    rows = [row for row in found if row is not None]
    if len(rows) < 2 or len(rows) < len(claim.order):
        return Verdict(claim, "not measured", ("not all rows that the claim names are in this sweep",))
    ranked = [(place, row.value(ground.metric).mean) for place, row in enumerate(rows)]
    have = [(place, mean) for place, mean in ranked if mean is not None and not set_apart(rows[place], ground.metric)]
    tau = kendall_tau([place for place, _ in have], [ground.sign * mean for _, mean in have])
    pairs = [(left, right) for i, left in enumerate(rows) for right in rows[i + 1 :]]
    return _from_pairs(claim, pairs, ground, tau)


def _similar(claim: Claim, ground: _Ground) -> Verdict:
    left, right = ground.one(claim.left), ground.one(claim.right)
    difference = compare(left, right, ground.metric) if left and right else None
    if left is None or right is None or difference is None:
        return Verdict(claim, "not measured")
    assert claim.tolerance is not None
    floor = _floor(right, ground.metric) if ground.is_stand_in else 0.0
    base = abs((right.value(ground.metric).mean or 0.0) - floor)
    worse, bound = difference.delta * ground.sign, claim.tolerance * base
    off = worse if claim.or_better else abs(worse)
    shown = ground.show(left, right)
    above = f" of what lies above real images ({quantity(ground.metric).text(floor)})" if floor else ""
    text = (
        f"{shown}: {worse / base if base else 0:+.1%}{above} (+ is worse), tolerance {claim.tolerance:.0%}; "
        f"{difference.text}"
    )
    judgement: Judgement = "undecided"
    if difference.single_training:
        return Verdict(claim, judgement, (text,))
    wider = difference.margin_among(ground.contexts)
    if difference.margin is not None and off + difference.margin <= bound:
        judgement = "supported"
    elif wider is not None and off - wider > bound:
        judgement = "contradicted"
    return Verdict(claim, judgement, (text,))


def _floor(row: Row, metric: str) -> float:
    """What as many real images get in the place of samples, where that was measured; else 0. A distance on other
    features than Inception's lies so far above 0 that a share of it means nothing."""
    floors = [record.protocol.get("floor", {}).get(metric) for record in row.measured]
    return max((floor for floor in floors if isinstance(floor, int | float)), default=0.0)


def _ratio(claim: Claim, ground: _Ground) -> Verdict:
    left, right = ground.one(claim.left), ground.one(claim.right)
    difference = compare(left, right, ground.metric) if left and right else None
    base = right.value(ground.metric).mean if right else None
    if left is None or right is None or difference is None or not base:
        return Verdict(claim, "not measured")
    shown = f"{ground.show(left, right, 'over')} is {1 + difference.delta / base:.3g}, claimed"
    low, high = _bounds(claim)
    held: list[str] = []
    for name, bound, sign in (("at least", low, 1), ("at most", high, -1)):
        if bound is None or (found := compare(left, right, ground.metric, bound)) is None:
            continue
        by = math.copysign(1, base) * sign * found.delta
        if found.margin is None or difference.single_training:
            held.append("undecided")
        elif by >= found.margin:
            held.append("yes")
        else:
            held.append("no" if by < 0 and found.stands_among(ground.contexts) else "within the noise")
        shown += f"{' and' if len(held) > 1 else ''} {name} {bound:.3g} ({held[-1]})"
    text = f"{shown}; {difference.method if difference.comparable else difference.text}"
    outcome: Judgement = "supported" if set(held) == {"yes"} else "contradicted" if "no" in held else "undecided"
    return Verdict(claim, outcome, (text,))


def _bounds(claim: Claim) -> tuple[float | None, float | None]:
    if claim.value is not None and claim.tolerance is not None:
        reach = abs(claim.value) * claim.tolerance
        return claim.value - reach, claim.value + reach
    return claim.at_least, claim.at_most


def _correlation(claim: Claim, ground: _Ground) -> Verdict:
    alike = [row for row in ground.rows if not (set_apart(row, ground.metric) or set_apart(row, claim.x))]
    points = [(row.value(claim.x).mean, row.value(ground.metric).mean) for row in alike]
    found = [(x, y) for x, y in points if x is not None and y is not None]
    have = [(math.log(x), y) for x, y in found if x > 0] if claim.log else found
    lost = f"; {len(found) - len(have)} without a logarithm left out" if len(have) < len(found) else ""
    lost += f"; {len(ground.rows) - len(alike)} not comparable left out" if len(alike) < len(ground.rows) else ""
    r = pearson([x for x, _ in have], [y for _, y in have])
    if r is None:
        text = f"{len(have)} of {len(ground.rows)} rows measured{lost}; three are needed"
        return Verdict(claim, "not measured", (text,))
    low, high = _bounds(claim)
    text = f"r = {r:.4f} over {len(have)} rows{', by the logarithm' if claim.log else ''}{lost}"
    if claim.value is not None:
        text += f", published {claim.value}"
    if len(have) < 4:
        return Verdict(claim, "undecided", (text,))
    lowest, highest = correlation_interval(r, len(have))
    inside = (low is None or lowest >= low) and (high is None or highest <= high)
    outside = (low is not None and highest < low) or (high is not None and lowest > high)
    judgement: Judgement = "supported" if inside else "contradicted" if outside else "undecided"
    return Verdict(claim, judgement, (f"{text}; 95% interval {lowest:.2f} to {highest:.2f}",))


_JUDGES: dict[str, Callable[[Claim, _Ground], Verdict]] = {
    "best": _best,
    "order": _order,
    "similar": _similar,
    "ratio": _ratio,
    "correlation": _correlation,
}
