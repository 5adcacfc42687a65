"""Configurations of the benchmarks that a sweep can hold as cells. Torch-free.

A sweep with `measure: benchmark` varies these and the sections that they measure; nothing is trained. `measures` names
the keys of the run's configuration that change what is timed: they, and no others, identify the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from lightning_modules.bounds import check_least
from lightning_modules.layers.config import MixerName
from lightning_modules.registry import Entry, Registry

TRANSFORMER_LAYERS = ("transformer", "attention")
if TYPE_CHECKING:
    LayerName = str
else:
    LayerName = Literal["transformer", MixerName]


@dataclass
class NoBenchmarkConfig:
    """No benchmark: the run is trained and evaluated."""

    measures: ClassVar[tuple[str, ...]] = ()

    name: str = "none"


@dataclass
class _BenchmarkConfig:
    """What all benchmarks share."""

    batch_size: int = 1
    """Samples per call."""
    seconds: float = 4.0
    """Time for the repetitions of each phase, after one untimed call; at least 6 and at most 41 are taken."""

    def __post_init__(self) -> None:
        check_least(self, "benchmark", batch_size=1, seconds=0)


@dataclass
class LayerBenchmarkConfig(_BenchmarkConfig):
    """One layer by itself, forward and in training: time and memory (MaskMamba, Figure 7)."""

    measures: ClassVar[tuple[str, ...]] = ("trainer.precision", "trainer.compile")

    name: str = "layer"
    layer: LayerName = "transformer"
    """transformer: attention and MLP; attention: without the MLP; a mixer with its default settings."""
    length: int = 256
    """Sequence length: (pixels / 16) ** 2 with the usual tokenizers."""
    width: int = 1024
    """Model width C."""
    heads: int = 16
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Of the Transformer layer."""
    mamba_mlp_ratio: float = 0.0
    """Of an MLP behind the Mamba mixers; 0 = none."""
    match: Literal["width", "parameters"] = "width"
    """Mamba layers at their own inner width, or widened inside until they hold a Transformer layer's parameters."""
    attention: Literal["auto", "flash", "cudnn", "efficient", "math"] = "auto"
    """Back end of PyTorch's scaled dot product: its own choice, or exactly this one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "benchmark", length=1, width=1, heads=1)
        if self.width % self.heads:
            raise ValueError(f"benchmark.width={self.width} must be a multiple of benchmark.heads={self.heads}.")


@dataclass
class GenerationBenchmarkConfig(_BenchmarkConfig):
    """Sampling from a generator with random weights, without decoding to pixels: time and memory per image.

    The size of the token grid is the tokenizer's (`tokenizer.image_size`, `tokenizer.downsample`).
    """

    measures: ClassVar[tuple[str, ...]] = ("generator", "sampler", "trainer.precision", "trainer.compile")

    name: str = "generation"


@dataclass
class TrainingBenchmarkConfig(_BenchmarkConfig):
    """A training step of a generator on random data: forward, backward, optimiser and averaged weights."""

    measures: ClassVar[tuple[str, ...]] = (
        "generator",
        "objective",
        "trainer.precision",
        "trainer.compile",
        "trainer.ema_decay",
        "optim.optimizer",
        "optim.gradient_clip",
    )

    name: str = "training"


@dataclass
class PartsBenchmarkConfig(_BenchmarkConfig):
    """UViT or M-Mamba taken apart: kernel, attentions or mixer, layer, stack, network, forward (M-Mamba, slide 14)."""

    measures: ClassVar[tuple[str, ...]] = ("generator", "trainer.precision")

    name: str = "parts"


BENCHMARK_CELLS = Registry(
    "benchmark",
    {
        "none": Entry(NoBenchmarkConfig, "experiments.benchmarks.config:NoBenchmarkConfig"),
        "layer": Entry(LayerBenchmarkConfig, "experiments.benchmarks.cells.layer:LayerCell"),
        "generation": Entry(GenerationBenchmarkConfig, "experiments.benchmarks.cells.generation:GenerationCell"),
        "parts": Entry(PartsBenchmarkConfig, "experiments.benchmarks.cells.parts:PartsCell"),
        "training": Entry(TrainingBenchmarkConfig, "experiments.benchmarks.cells.training:TrainingCell"),
    },
)
