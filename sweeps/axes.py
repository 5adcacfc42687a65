"""The axes of a sweep, and the combinations of values that they come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.errors import unknown
from sweeps.config import SweepConfig


@dataclass(frozen=True)
class Choice:
    """One value of an axis: its label and what it sets."""

    label: str
    overrides: Mapping[str, Any]
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Axis:
    """One thing that is varied."""

    name: str
    choices: tuple[Choice, ...]
    when: Mapping[str, tuple[str, ...]]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all values, in the order of the definition."""
        return tuple(dict.fromkeys(choice.label for choice in self.choices))


@dataclass(frozen=True)
class Sweep:
    """A checked definition."""

    config: SweepConfig
    path: Path
    axes: tuple[Axis, ...]
    exclude: tuple[tuple[Mapping[str, tuple[str, ...]], str], ...]
    """(condition, reason)."""

    @property
    def name(self) -> str:
        """Its name, which is also its file's."""
        return self.config.name

    @property
    def report(self) -> dict[str, Any]:
        """Layout of the table, checked only as far as it names axes and metrics."""
        return self.config.report

    def axis(self, name: str) -> Axis:
        """The axis of that name. Raises UserError if there is none."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise unknown(f"axis of sweep {self.name}", name, [axis.name for axis in self.axes])

    def scale(self, name: str) -> str:
        """`name` if the sweep has that scale; for "" the first. Raises UserError otherwise."""
        if name and name not in self.config.scales:
            raise unknown(f"scale of sweep {self.name}", name, self.config.scales)
        return name or next(iter(self.config.scales))

    def combinations(self, only: Mapping[str, tuple[str, ...]]) -> Iterator[dict[str, Choice]]:
        """Every combination of values, excluded ones among them.

        Args:
            only: axis -> the labels to take.
        """
        yield from (choices for choices, lacking in _combine(self._units(), {}, only) if not lacking)

    def unfit(self, only: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[dict[str, str], str]]:
        """Labels that make no cell, because no value of the next axis applies with them, and that axis.

        Args:
            only: axis -> the labels to take.
        """
        for choices, lacking in _combine(self._units(), {}, only):
            if lacking:
                yield labels_of(choices), lacking

    def excludes(self, labels: Mapping[str, str]) -> str | None:
        """Why the combination with these labels is left out; None if it is not."""
        return next((reason for when, reason in self.exclude if matches(labels, when)), None)

    def base(self, scale: str, labels: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        """Preset of the cell with these labels, and what the scale sets in it: what the axes' own values go over."""
        config = self.config.scales[scale]
        parts = [part for part in config.cells if matches(labels, part.when)]
        preset = next((part.preset for part in reversed(parts) if part.preset), config.preset)
        return preset, {**config.overrides, **{key: value for part in parts for key, value in part.set.items()}}

    def _units(self) -> list[tuple[Axis, ...]]:
        """Axes that are multiplied; those of a zip group form one unit, which stands where its first axis stands."""
        groups = {name: tuple(group) for group in self.config.zip for name in group}
        units: list[tuple[Axis, ...]] = []
        for axis in self.axes:
            group = groups.get(axis.name, (axis.name,))
            if axis.name == min(group, key=[a.name for a in self.axes].index):
                units.append(tuple(self.axis(name) for name in group))
        return units


def labels_of(choices: Mapping[str, Choice]) -> dict[str, str]:
    """Axis -> label, of axis -> value."""
    return {axis: choice.label for axis, choice in choices.items()}


def overrides_of(choices: Mapping[str, Choice]) -> dict[str, Any]:
    """What these values set together, by dotted key; the later axis counts."""
    return {key: value for choice in choices.values() for key, value in choice.overrides.items()}


def matches(labels: Mapping[str, str], condition: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether a combination's labels meet every part of a condition."""
    return all(labels.get(axis) in wanted for axis, wanted in condition.items())


def _combine(
    units: list[tuple[Axis, ...]], chosen: dict[str, Choice], only: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[dict[str, Choice], str]]:
    """(values, ""), or (values of the first axes, the axis none of whose values applies with these)."""
    if not units:
        yield chosen, ""
        return
    unit, labels = units[0], labels_of(chosen)
    if not matches(labels, unit[0].when):
        yield from _combine(units[1:], chosen, only)
        return
    rows = zip(*(axis.choices for axis in unit), strict=True)
    fitting = [row for row in rows if all(matches(labels, choice.when) for choice in row)]
    if not fitting:
        yield chosen, " and ".join(axis.name for axis in unit)
    for row in fitting:
        values = {axis.name: choice for axis, choice in zip(unit, row, strict=True)}
        if all(choice.label in only.get(name, (choice.label,)) for name, choice in values.items()):
            yield from _combine(units[1:], {**chosen, **values}, only)
