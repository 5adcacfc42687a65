"""What a benchmark cell is: some phases to time, and the names that their times go by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn


@dataclass(frozen=True)
class Phase:
    """One thing that is timed, and the metrics (lightning_modules/metrics/config.py) that come of it."""

    call: Callable[[], Any]
    """Does it once."""
    seconds: str
    """Metric of the time of one call, or, where `per_item`, of its share for one item."""
    memory: str
    """Metric of the most memory held meanwhile, with weights and all that stays from call to call."""
    items: int = 1
    """Images or samples that one call handles."""
    per_item: bool = False
    rate: str = ""
    """Metric of items per second; "" = none."""


class BenchmarkCell(Protocol):
    """Built from a configuration on a device; its weights are random."""

    phases: dict[str, Phase]
    parameters: int


def trainable_parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
