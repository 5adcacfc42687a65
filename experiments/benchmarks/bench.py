"""What a benchmark hands back: rows of measurements and the machine they were taken on. Free of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

FORWARD, TRAINING = "forward", "forward+backward"


@dataclass(frozen=True)
class Row:
    """One contender on one case; times in milliseconds, over the rounds of one interleaved run."""

    case: str
    phase: str
    contender: str
    median_ms: float
    fastest_ms: float
    spread: float
    """Interquartile range of the times over their median."""
    ratio: float
    """Median over the rounds of this contender's time over the baseline's in the same round; the baseline has 1."""
    rounds: int
    peak_bytes: int | None = None
    """Peak memory above what was held at the start, outputs included; None where it cannot be measured."""
    floor_ms: float | None = None
    """What the machine needs at its measured peak; None where the contender has no floor computed."""
    extra: dict[str, float] = field(default_factory=dict)
    """Column -> value: what only this benchmark measures."""

    @property
    def over_floor(self) -> float | None:
        """Fastest time over the floor."""
        return None if self.floor_ms is None else self.fastest_ms / self.floor_ms


@dataclass
class Bench:
    """A finished benchmark."""

    name: str
    title: str
    baseline: str
    """The contender that ratios are relative to."""
    rows: list[Row] = field(default_factory=list)
    checks: dict[str, float] = field(default_factory=dict)
    """Contender -> largest relative error against the float64 definition, checked before anything was timed."""
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    """Hardware, code, threads, the limits measured, the load before, the kernels that ran and those forced."""
    command: str = ""
    """What runs it again."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; rows carry their distance to the floor."""
        rows = [asdict(row) | {"over_floor": row.over_floor} for row in self.rows]
        return {"schema": 1, **asdict(self), "rows": rows}
