"""How rows differ from the baseline: in which settings, and in size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.aggregate import Row, select
from reports.facts import compared

ISO = 0.05
"""Relative deviation of parameters or FLOPs from the baseline's beyond which a row is not called equal in size."""


@dataclass(frozen=True)
class OneFactor:
    """How one row differs from the baseline row."""

    row: int
    changes: Mapping[str, tuple[Any, Any]]
    """Configuration key -> (baseline's value, this row's value)."""
    parameters: float | None
    """Relative deviation of the parameter count; None = not known."""
    flops: float | None

    @property
    def text(self) -> str:
        """The statement in words."""
        if not self.changes:
            return "same configuration as the baseline"
        changed = ", ".join(f"{key}: {a} → {b}" for key, (a, b) in self.changes.items())
        return f"{len(self.changes)} settings differ: {changed}" if len(self.changes) > 1 else f"only {changed}"


def one_factor(rows: Sequence[Row], baseline: Mapping[str, str]) -> list[OneFactor]:
    """How each row differs from the baseline row that agrees with it on the other axes; [] without a baseline."""
    result, bases = [], select(rows, baseline) if baseline else []
    for index, row in enumerate(rows):
        if (base := baseline_of(row, bases, baseline)) is None or base is row:
            continue
        ours, theirs = _stored(row), _stored(base)
        if not ours or not theirs:  # before one of them has run: what is planned for both
            ours, theirs = _planned(row), _planned(base)
        keys = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        renamed = tuple(key.removesuffix("name") for key in keys if key.endswith(".name"))
        keys = [k for k in keys if not k.startswith(renamed) or (k in ours and k in theirs)]  # others bring their own
        changes = {key: (_shown(key, theirs), _shown(key, ours)) for key in keys}
        deviations = [_relative(row, base, metric) for metric in ("parameters", "flops")]
        result.append(OneFactor(index, changes, *deviations))
    return result


def baseline_of(row: Row, rows: Sequence[Row], baseline: Mapping[str, str]) -> Row | None:
    """The baseline row with the same labels on every axis that the baseline does not fix; None unless it is one row.

    Args:
        rows: among which it is, all or those that carry the baseline's labels.
    """
    wanted = {**{axis: label for axis, label in row.labels.items() if axis not in baseline}, **baseline}
    found = select(rows, wanted)
    return found[0] if len(found) == 1 else None


def _shown(key: str, values: Mapping[str, Any]) -> Any:
    """A value as the statement has it: "-" where there is none, of a file's digest the beginning."""
    value = values.get(key, "-")
    return (value[:12] or "-") if key.endswith("fingerprint") else value


def _stored(row: Row) -> dict[str, Any]:
    """The stored configuration of a row; {} before it has run."""
    for record in row.records:
        if config := {key: value for key, value in record.config.items() if compared(key)}:
            return config
    return {}


def _planned(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row.records[0].overrides.items() if compared(key)}


def _relative(row: Row, base: Row, metric: str) -> float | None:
    ours, theirs = row.value(metric).mean, base.value(metric).mean
    return None if ours is None or not theirs else ours / theirs - 1
