"""What a table can show: how each measured quantity is called, printed and ranked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", "none"]


@dataclass(frozen=True)
class Quantity:
    """One quantity. The printed number is the measured one times `scale`."""

    name: str
    label: str
    better: Better = "none"
    format: str = ".3g"
    scale: float = 1.0


RUN = (
    Quantity("parameters", "Parameters (M)", "none", ".2f", 1e-6),
    Quantity("flops", "GFLOPs", "none", ".2f", 1e-9),
    Quantity("train/loss", "Train loss", "lower", ".3f"),
    Quantity("val/loss", "Val loss", "lower", ".3f"),
    Quantity("val/accuracy", "Val accuracy (%)", "higher", ".1f", 100.0),
    Quantity("train_seconds", "Training (min)", "lower", ".1f", 1 / 60),
    Quantity("samples_per_s", "Training samples/s", "higher", ".0f"),
    Quantity("peak_memory_bytes", "Peak memory (GB)", "lower", ".2f", 1e-9),
)
"""What a training reports about itself; the metrics of an evaluation come from the metric registry."""
PERCENT = {"memorisation_rate": "Memorised (%)"}
"""Shares that read better as per cent than as the registry's fraction."""
SCALED = {
    "kid_efflite0": (1e3, "KID-EffLite0 (x1000)", ".1f"),
    "kid": (1e3, "KID (x1000)", ".2f"),
    "seconds_per_image": (1e3, "Time per image (ms)", ".1f"),
}
EXACT = frozenset({"parameters", "flops"})
"""Quantities without noise: any difference is one."""


def quantity(name: str) -> Quantity:
    """How to print a quantity; one that nobody described keeps its own name."""
    for known in RUN:
        if known.name == name:
            return known
    from lightning_modules.metrics.config import METRICS

    spec = METRICS.get(name)
    if spec is None:
        return Quantity(name, name)
    if name in PERCENT:
        return Quantity(name, PERCENT[name], spec.better, ".1f", 100.0)
    if name in SCALED:
        scale, label, form = SCALED[name]
        return Quantity(name, label, spec.better, form, scale)
    label = f"{spec.label} ({spec.unit})" if spec.unit else spec.label
    return Quantity(name, label, spec.better, spec.format)
