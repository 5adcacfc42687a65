"""Configurations of the samplers. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from lightning_modules.bounds import check_least
from lightning_modules.registry import Entry, Registry


@dataclass
class _TokenSamplerConfig:
    """What the samplers of tokens share."""

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
        check_least(self, "sampler", temperature=0, guidance=0, top_k=0)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampler.top_p={self.top_p} must be in (0, 1].")


@dataclass
class _MaskedSamplerConfig(_TokenSamplerConfig):
    """What the samplers of masked tokens share."""

    objective: ClassVar[str] = "masked"

    steps: int = 20
    """Forward passes T (with guidance, of a doubled batch); fewer where fewer tokens than that are to be drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "sampler", steps=1)


@dataclass
class MaskGITConfig(_MaskedSamplerConfig):
    """Parallel decoding by confidence (MaskGIT, arXiv 2202.04200, section 3.2)."""

    name: str = "maskgit"
    schedule: Literal["cosine", "amused", "linear", "arccos"] = "cosine"
    """Share of tokens still masked after a step, as a function of progress; amused is a cosine in single precision."""
    confidence_noise: float = 4.5
    """Gumbel noise on the log confidence, annealed linearly to 0 (MaskGIT's choice temperature)."""
    annealing: Literal["maskgit", "amused"] = "maskgit"
    """Factor of that noise in step i = 0 .. T - 1: 1 - (i + 1) / T, or 1 - i / (T - 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "sampler", confidence_noise=0)


@dataclass
class AmusedConfig(MaskGITConfig):
    """aMUSEd's parallel decoding (arXiv 2401.01808), equal to diffusers' `AmusedScheduler`."""

    name: str = "amused"
    steps: int = 12
    guidance: float = 10.0
    schedule: Literal["cosine", "amused", "linear", "arccos"] = "amused"
    confidence_noise: float = 2.0
    annealing: Literal["maskgit", "amused"] = "amused"


@dataclass
class HaltonConfig(_MaskedSamplerConfig):
    """Parallel decoding in a fixed low-discrepancy order (Halton scheduler, arXiv 2503.17076)."""

    name: str = "halton"
    schedule: Literal["cosine", "linear", "arccos"] = "arccos"
    """Share of tokens still masked after a step, as a function of progress."""
    roll: bool = False
    """Start the order at another offset for every sample."""


@dataclass
class AutoregressiveSamplerConfig(_TokenSamplerConfig):
    """Token by token, in raster order, with a recurrent state or a key-value cache (AiM, LlamaGen)."""

    objective: ClassVar[str] = "autoregressive"

    name: str = "autoregressive"
    guidance: float = 2.0
    guidance_interval: list[float] = field(default_factory=lambda: [0.0, 1.0])
    """Guidance acts on tokens from the first to the second share of the way, 0 the first token, 1 the last."""
    position_shift: Literal["correct", "official"] = "correct"
    """Row of AiM's position table that token k is fed with: k, as in training, or k + 1, as in its published code."""
    cuda_graph: bool = True
    """On a GPU, record one step as a CUDA graph and replay it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        interval = self.guidance_interval
        if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError(
                f"sampler.guidance_interval={list(interval)} must be two shares of the sequence with "
                "0 <= first <= second <= 1."
            )


@dataclass
class DPMSolverConfig:
    """Solving the probability-flow ODE of a diffusion model (DPM-Solver++, arXiv 2211.01095)."""

    objective: ClassVar[str] = "diffusion"

    name: str = "dpm_solver"
    steps: int = 20
    """Forward passes (with guidance, of a doubled batch)."""
    guidance: float = 4.5
    """Classifier-free guidance scale s in e_u + s (e_c - e_u); 1 = off (a single batch)."""
    order: Literal[1, 2, 3] = 2
    """Of the multistep solver; 2 is "2M", 1 is DDIM (arXiv 2010.02502) and, on the straight paths of flow, Euler."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.steps > 1000:
            raise ValueError(f"sampler.steps={self.steps} must be in 1 .. 1000.")
        check_least(self, "sampler", guidance=0)


SAMPLERS = Registry(
    "sampler",
    {
        "dpm_solver": Entry(DPMSolverConfig, "lightning_modules.samplers.dpm_solver:DPMSolver"),
        "maskgit": Entry(MaskGITConfig, "lightning_modules.samplers.maskgit:MaskGIT"),
        "amused": Entry(AmusedConfig, "lightning_modules.samplers.maskgit:MaskGIT"),
        "halton": Entry(HaltonConfig, "lightning_modules.samplers.halton:Halton"),
        "autoregressive": Entry(
            AutoregressiveSamplerConfig, "lightning_modules.samplers.autoregressive:AutoregressiveSampler"
        ),
    },
)
