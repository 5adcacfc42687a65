"""Configurations of the samplers. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from lightning_modules.registry import Entry, Registry


@dataclass
class _MaskedSamplerConfig:
    """What the samplers of masked tokens share."""

    objective: ClassVar[str] = "masked"

    steps: int = 20
    """Forward passes T (with guidance, of a doubled batch)."""
    guidance: float = 3.0
    """Classifier-free guidance scale s in l = (1 - s) l_u + s l_c; 1 = off (a single batch)."""
    guidance_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Guidance over the steps: constant, or rising from 1 to `guidance`."""
    temperature: float = 1.0
    """Softmax temperature of the token draw; 0 = argmax."""
    top_k: int = 0
    """Draw among the k likeliest tokens; 0 = all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that hold this probability mass; 1 = all."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampler.steps={self.steps} must be at least 1.")
        if self.temperature < 0 or self.guidance < 0:
            raise ValueError(
                f"sampler.temperature={self.temperature} and sampler.guidance={self.guidance} must not be negative."
            )
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"sampler.top_k={self.top_k} must be >= 0 and sampler.top_p={self.top_p} in (0, 1].")


@dataclass
class MaskGITConfig(_MaskedSamplerConfig):
    """Parallel decoding by confidence (MaskGIT, arXiv 2202.04200, section 3.2)."""

    name: str = "maskgit"
    schedule: Literal["cosine", "linear", "arccos"] = "cosine"
    """Share of tokens still masked after a step, as a function of progress."""
    confidence_noise: float = 4.5
    """Gumbel noise on the log confidence, annealed linearly to 0 (MaskGIT's choice temperature)."""


@dataclass
class HaltonConfig(_MaskedSamplerConfig):
    """Parallel decoding in a fixed low-discrepancy order (Halton scheduler, arXiv 2503.17076)."""

    name: str = "halton"
    schedule: Literal["cosine", "linear", "arccos"] = "arccos"
    roll: bool = False
    """Start the order at another offset for every sample."""


SAMPLERS = Registry(
    "sampler",
    {
        "maskgit": Entry(MaskGITConfig, "lightning_modules.samplers.maskgit:MaskGIT"),
        "halton": Entry(HaltonConfig, "lightning_modules.samplers.halton:Halton"),
    },
)
