"""What a run is configured by: its sections, and their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datamodules.config import DATASETS
from datamodules.emoji.config import EmojiConfig
from experiments.benchmarks.config import BENCHMARK_CELLS, NoBenchmarkConfig
from experiments.errors import UserError
from experiments.evaluation_config import EvaluationConfig
from experiments.files import default_root
from experiments.search.config import SearchConfig
from lightning_modules.backends import forced_backends
from lightning_modules.bounds import check_least, check_share
from lightning_modules.config import OBJECTIVES, MaskedConfig, OptimConfig
from lightning_modules.generators.config import GENERATORS
from lightning_modules.generators.configs.maskmamba import MaskMambaConfig
from lightning_modules.registry import Registry
from lightning_modules.samplers.config import SAMPLERS, MaskGITConfig
from lightning_modules.text_encoders.config import TEXT_ENCODERS, NoTextEncoderConfig
from lightning_modules.tokenizers.config import TOKENIZERS, EmojiVQConfig

SECTIONS: dict[str, Registry] = {
    "data": DATASETS,
    "tokenizer": TOKENIZERS,
    "text_encoder": TEXT_ENCODERS,
    "generator": GENERATORS,
    "objective": OBJECTIVES,
    "sampler": SAMPLERS,
    "benchmark": BENCHMARK_CELLS,
}
"""Polymorphic sections: `name:` picks the dataclass through a registry."""


@dataclass
class TrainerConfig:
    """How long, on how much, and in which precision a run trains."""

    max_steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 128
    """Samples per optimiser step, over all devices and accumulated batches."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other; masks, noise and dropout are drawn for each."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 is float32 on a device that does not compute in bfloat16 (CPUs without AVX-512, GPUs before Ampere)."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights that samples are drawn from; 0 = none."""
    compile: bool = False
    """Compile the network with torch.compile."""
    init_from: str = ""
    """Start from the weights of a preset's run (trained first if need be), of a run by its id, or of a safetensors
    file; positions are resized where the resolution differs."""
    init_fingerprint: str = ""
    """Training hash of that run, or sha256 of that file, filled in when a run is resolved."""
    snapshots: int = 0
    """Keep weights at so many equal shares of the training, the end among them, for `evaluation.snapshot`: 4 keeps
    those of 25, 50 and 75 % as well; 0 = only those that a run ends with."""
    keep: Literal["last", "best"] = "last"
    """Weights that a run ends with: the last, or those of the best validation."""
    patience: int = 0
    """Early stopping: end after so many validations in a row without a new best; 0 = train all steps."""
    watch: str = "val/loss"
    """The validation's metric that `keep` and `patience` go by, one that the objective measures."""

    def __post_init__(self) -> None:
        check_least(self, "trainer", max_steps=1, batch_size=1, accumulate=1, snapshots=0, patience=0)
        if self.snapshots > self.max_steps:
            raise ValueError(f"trainer.snapshots={self.snapshots} must be {self.max_steps} or less, one a step.")
        if self.snapshots == 1:
            raise ValueError("trainer.snapshots=1 keeps nothing on the way to the end; set 2 or more, or 0 for none.")
        check_share(self, "trainer", "ema_decay")

    @property
    def selects(self) -> bool:
        """Whether validations decide about the weights or the end."""
        return self.keep == "best" or self.patience > 0


MOST_THREADS = 4096
"""More than a machine has; OpenMP ends the process where it cannot start them."""


@dataclass
class RuntimeConfig:
    """Where and how a run is carried out: never part of its identity."""

    root: str = field(default_factory=default_root)
    """Folder of all outputs; by default ABLATE_ROOT, or else outputs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What to compute on; auto = a GPU where there is one."""
    devices: int = 1
    """Processes on each machine, one per GPU."""
    num_nodes: int = 1
    """Machines."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """What each of several processes holds: the whole model, or a share of weights, averages and optimiser states."""
    num_workers: int = 0
    """Threads that read batches ahead; processes where images are decoded during training."""
    threads: int = 0
    """CPU threads per process; 0 = all cores shared among the processes on this machine."""
    kernels: str = "auto"
    """Back end to force, as ABLATE_KERNELS takes it: `cpp`, or `selective_scan=torch,depthwise_conv1d=cpp`."""
    log_every: int = 20
    """Optimiser steps between lines of the log and points of the training curves."""
    val_every: int = 200
    """Optimiser steps between validations."""
    sample_every: int = 200
    """Optimiser steps between grids of samples; 0 = none."""
    checkpoint_every: int = 100
    """Optimiser steps between checkpoints, from which an interrupted training goes on."""
    most_equal_failures: int = 5
    """Give a training up that failed so often in the same way without getting further; 0 = never."""
    progress: bool = True
    """Show a progress bar, on a terminal."""

    def __post_init__(self) -> None:
        check_least(self, "runtime", devices=1, num_nodes=1, log_every=1, val_every=1, checkpoint_every=1)
        check_least(self, "runtime", num_workers=0, threads=0, sample_every=0, most_equal_failures=0)
        if self.threads > MOST_THREADS:
            raise ValueError(f"runtime.threads={self.threads} must be at most {MOST_THREADS}; 0 takes all cores.")
        forced_backends(self.kernels, "runtime.kernels")

    @property
    def processes(self) -> int:
        """Processes that train together, on all machines."""
        return self.devices * self.num_nodes


@dataclass
class RunConfig:
    """One run: a training and one evaluation of it; where `benchmark` is not none, a measurement without training."""

    preset: str = ""
    """The preset that it was made of."""
    imported: str = ""
    """sha256 of the published file that the weights come from; empty: they are trained."""
    seed: int = 0
    """Of the initial weights, the order of the data, and all that training draws."""
    data: Any = field(default_factory=EmojiConfig)
    tokenizer: Any = field(default_factory=EmojiVQConfig)
    text_encoder: Any = field(default_factory=NoTextEncoderConfig)
    generator: Any = field(default_factory=MaskMambaConfig)
    objective: Any = field(default_factory=MaskedConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    sampler: Any = field(default_factory=MaskGITConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    benchmark: Any = field(default_factory=NoBenchmarkConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    """Values that are tuned before the run that counts; by itself never part of a run's identity."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must be at least 0 and less than 2**63.")
        if self.evaluation.snapshot and self.evaluation.snapshot >= self.trainer.snapshots:
            raise ValueError(
                f"evaluation.snapshot={self.evaluation.snapshot} must be less than trainer.snapshots="
                f"{self.trainer.snapshots}, which keeps the weights when it trains, or 0 for those of the end."
            )

    def check_selection(self) -> None:
        """Raise UserError where `trainer.keep` or `trainer.patience` is asked for and too few validations are."""
        steps, every, patience = self.trainer.max_steps, self.runtime.val_every, self.trainer.patience
        now = f"runtime.val_every={every} and trainer.max_steps={steps}"
        if self.trainer.keep == "best" and steps < 2 * every:
            raise UserError(
                f"trainer.keep=best chooses among the validations of a run, of which {now} leave fewer than two; set "
                "fewer steps between validations, or trainer.keep=last."
            )
        if patience and steps <= (patience + 1) * every:
            raise UserError(
                f"trainer.patience={patience} can end a run at step {(patience + 1) * every} at the earliest, which "
                f"{now} do not go beyond; set fewer steps between validations, or trainer.patience=0."
            )

    @property
    def trains_tokenizer(self) -> bool:
        """Whether the run trains a tokenizer (stage 1) instead of a generator."""
        return bool(self.objective.name == "reconstruction")

    @property
    def root(self) -> Path:
        """The folder of all outputs."""
        return Path(self.runtime.root)
