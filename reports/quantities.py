"""What a table can show: how each measured quantity is called, printed and ranked.

The metric registry describes what is stored, in SI units and fractions; tables print some of it in handier units.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Literal

from lightning_modules.metrics.config import METRICS

Better = Literal["lower", "higher", "none"]


class Printed:
    """How a number is printed; the fields come with the dataclass."""

    label: str
    format: str
    scale: float

    @property
    def plain(self) -> str:
        """The label without its unit, for sentences."""
        return self.label.partition(" (")[0]

    def text(self, value: float) -> str:
        """The stored number as printed."""
        return format(value * self.scale, self.format)

    def spread(self, mean: float, deviation: float) -> str:
        """Stored mean ± deviation as printed, to the same decimals: where the format counts digits ("g"), as many as
        show two digits of the deviation."""
        size = abs(deviation * self.scale)
        decimals = max(0, 1 - math.floor(math.log10(size))) if size else 0
        if not self.format.endswith("g") or not size or decimals > MOST_DECIMALS:
            return f"{self.text(mean)} ± {self.text(deviation)}"
        return f"{mean * self.scale:.{decimals}f} ± {size:.{decimals}f}"


@dataclass(frozen=True)
class Quantity(Printed):
    """One quantity. The printed number is the stored one times `scale`."""

    name: str
    label: str
    better: Better = "none"
    format: str = ".3g"
    scale: float = 1.0
    description: str = ""


PRINTED: dict[str, tuple[str, str, float]] = {
    "kid_efflite0": ("x1000", ".1f", 1e3),
    "kid": ("x1000", ".2f", 1e3),
    **dict.fromkeys(
        (
            "memorisation_rate",
            "class_accuracy_efflite0",
            "precision_efflite0",
            "recall_efflite0",
            "precision",
            "recall",
        ),
        ("%", ".1f", 100.0),
    ),
    "seconds_per_image": ("ms", ".1f", 1e3),
    "train/accuracy": ("%", ".1f", 100.0),
    "val/accuracy": ("%", ".1f", 100.0),
    "val/codebook_usage": ("%", ".1f", 100.0),
    "parameters": ("M", ".2f", 1e-6),
    "non_embedding_parameters": ("M", ".2f", 1e-6),
    "flops": ("G", ".2f", 1e-9),
    "training_flops": ("T", ".3g", 1e-12),
    "train_seconds": ("min", ".1f", 1 / 60),
    "device_seconds": ("h", ".2f", 1 / 3600),
    "peak_memory_bytes": ("GB", ".3g", 1e-9),
    "step_seconds": ("ms", ".1f", 1e3),
    "forward_seconds": ("ms", ".2f", 1e3),
    "training_seconds": ("ms", ".2f", 1e3),
    **dict.fromkeys(
        (
            "seconds_kernel",
            "seconds_self_attention",
            "seconds_cross_attention",
            "seconds_mixer",
            "seconds_layer",
            "seconds_stack",
            "seconds_network",
        ),
        ("ms", ".2f", 1e3),
    ),
    "forward_memory_bytes": ("GB", ".3g", 1e-9),
    "training_memory_bytes": ("GB", ".3g", 1e-9),
}
"""Quantity -> unit, format and factor of the printed number, where they are not the stored one's."""
NOISE = re.compile("_(low|high|std)$")
"""Endings of quantities that are printed as the one they belong to."""
SPANS = frozenset({"train_seconds", "device_seconds"})
"""Times of work, from seconds to weeks: on a line of its own each has the unit that suits it."""
EXACT = frozenset({"parameters", "non_embedding_parameters", "flops", "training_flops"})
"""Quantities without noise: any difference is one."""
MOST_DECIMALS = 6
TIME_WORDS = ("seconds", "_per_s")
COST_WORDS = (*TIME_WORDS, "memory_bytes")
"""Parts of the names of quantities that the random seed of a training has no part in."""
CHOSEN = "chosen/"
"""What the names of values that a search chose begin with: chosen/sampler.guidance."""
STAND_INS: dict[str, tuple[str, ...]] = {"fid": ("fd_efflite0",)}
"""What may be looked at in place of a quantity that needs weights which are not at hand, best first."""


def is_cost(name: str) -> bool:
    """Whether a quantity is the same for every training, but for the noise of the machine."""
    return name in EXACT or any(word in name for word in COST_WORDS)


def is_time(name: str) -> bool:
    """Whether a quantity is wall time, which the load of the machine changes."""
    return any(word in name for word in TIME_WORDS)


def is_end(name: str, names: Container[str]) -> bool:
    """Whether a quantity is an end of the interval of another one that is there, which is printed with it."""
    return name.endswith(("_low", "_high")) and NOISE.sub("", name) in names


def with_ends(name: str, metrics: Mapping[str, float]) -> str:
    """A measured quantity as printed, and the ends of its interval where they are known: "1597.0 [1526.9, 1667.0]"."""
    ends = printed_ends(name, metrics)
    return printed(name, metrics[name]) + (f" [{', '.join(ends)}]" if ends else "")


def printed_ends(name: str, metrics: Mapping[str, float]) -> list[str]:
    """The ends of a quantity's interval as printed, as far as they are known."""
    return [printed(name, metrics[f"{name}_{end}"]) for end in ("low", "high") if f"{name}_{end}" in metrics]


def heading(name: str) -> str:
    """What stands before a quantity that is `printed`: its label, with the unit where that is not in the number."""
    known = quantity(name)
    return known.plain if name in SPANS else known.label


def printed(name: str, value: float) -> str:
    """A stored number as printed on a line of its own: as in a column, but times of work in a unit that suits."""
    if name not in SPANS:
        return quantity(name).text(value)
    size = abs(value)
    unit, seconds = ("s", 1) if size < 120 else ("min", 60) if size < 7200 else ("h", 3600)
    return f"{value / seconds:.1f} {unit}"


def quantity(name: str) -> Quantity:
    """How to print a quantity; one that nobody described keeps its own name."""
    if name.startswith(CHOSEN):
        label = name.rpartition(".")[2].replace("_", " ").capitalize()
        return Quantity(name, f"{label} chosen", description="The value that a search found best.")
    spec = METRICS.get(name)
    if spec is None:
        return Quantity(name, name)
    unit, form, scale = PRINTED.get(NOISE.sub("", name), (spec.unit, spec.format, 1.0))
    label = f"{spec.label} ({unit})" if unit and unit not in spec.label.lower() else spec.label
    return Quantity(name, label, spec.better, form, scale, spec.description)
