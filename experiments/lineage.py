"""Runs that start from the weights of others: a higher resolution, or tuning on a chosen part of the data.

`trainer.init_from` names the start: a preset, whose run is trained first where it is missing; the id of a run; or a
safetensors file. What enters the identity is not that name but `trainer.init_fingerprint`: the training hash of the
run (so that it is known before the run is trained), or the checksum of the file.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.checks import check_files
from experiments.errors import UserError
from lightning_modules.hashing import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.run_config import RunConfig
    from experiments.store import Run
    from lightning_modules.base import TrainingModule

log = logging.getLogger("ablate")
SUFFIX = ".safetensors"
INTERVALS = ("log_every", "val_every", "sample_every", "checkpoint_every")
"""Keys of `runtime` that a parent takes from its own preset; all others (root, devices, ..) are the child's."""
_resolving: ContextVar[tuple[str, ...]] = ContextVar("resolving", default=())


@dataclass(frozen=True)
class Start(ABC):
    """Weights that a run starts from, by their `name` in trainer.init_from."""

    name: str

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """What identifies the weights, whether or not they are there yet."""

    @property
    @abstractmethod
    def weights(self) -> Path:
        """Where they are, or will be."""

    @property
    def run_id(self) -> str:
        """Of the run that they are of; "" where that is not known."""
        return ""

    @abstractmethod
    def _shapes(self) -> Mapping[str, Tensor]:
        """Their state on the meta device."""

    def check(self, config: RunConfig) -> None:
        """Raise UserError where these weights cannot be had, or the run's network cannot start from them."""
        import torch

        from experiments.networks import new_network
        from lightning_modules.adapt import adapt

        with torch.device("meta"):
            network = new_network(config)
        try:
            adapt(self.name, self._shapes(), network)
        except ValueError as error:
            raise UserError(f"trainer.init_from={self.name}: {error}") from error

    @abstractmethod
    def make(self) -> None:
        """See to it that the weights are there. Raises UserError where they are not, or not as they were written."""

    def put_into(self, config: RunConfig, module: TrainingModule) -> None:
        """Make `module`, which is built of `config`, start from these weights. Raises UserError as `check`."""
        from lightning_modules.adapt import adapt
        from lightning_modules.checkpoints import read_weights

        self.check(config)
        self.make()
        state, resized = adapt(self.weights, read_weights(self.weights), module.model)
        module.model.load_state_dict(state)
        if module.ema is not None:
            module.ema.load_state_dict(state)
        log.info("starting from %s%s", self.weights, f", with {', '.join(resized)} resized" if resized else "")

    def record(self, config: RunConfig) -> dict[str, Any]:
        """What the provenance of the trained run of `config` says about its start, which may be gone by now."""
        digest = file_sha256(self.weights) if self.weights.is_file() else None
        return {"init_from": self.name, "fingerprint": config.trainer.init_fingerprint, "weights_sha256": digest}


@dataclass(frozen=True)
class FileStart(Start):
    """A safetensors file."""

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of the file."""
        return file_sha256(self.weights)

    @property
    def weights(self) -> Path:
        """The file."""
        return Path(self.name)

    def make(self) -> None:
        """Nothing: `start_of` has found the file."""

    def _shapes(self) -> Mapping[str, Tensor]:
        from lightning_modules.checkpoints import read_weights

        return {key: value.to("meta") for key, value in read_weights(self.weights).items()}


@dataclass(frozen=True)
class RunStart(Start):
    """A run named by its id. It must be trained already: nothing here trains it."""

    config: RunConfig
    run: Run

    @cached_property
    def fingerprint(self) -> str:
        """The run's training hash."""
        from experiments.identity import training_hash

        return training_hash(self.config)

    @property
    def weights(self) -> Path:
        """Those that the run ends with."""
        return self.run.final_weights

    @property
    def run_id(self) -> str:
        """The run's."""
        return self.run.id

    def check(self, config: RunConfig) -> None:
        """As `Start.check`; the run must be trained to its end."""
        from experiments.advice import check_trained

        check_trained(self.run, f"trainer.init_from={self.name}")
        super().check(config)

    def make(self) -> None:
        """As `Start.make`."""
        from experiments.advice import check_weights

        check_weights(self.run)

    def _shapes(self) -> Mapping[str, Tensor]:
        import torch

        from experiments.networks import new_network

        with torch.device("meta"):
            return new_network(self.config).state_dict()


@dataclass(frozen=True)
class PresetStart(RunStart):
    """The run of a preset, with the child's seed, on the child's devices; it is trained where it is missing."""

    def check(self, config: RunConfig) -> None:
        """As `Start.check`; where the run is still to be trained, its files must be named and its own start fit."""
        Start.check(self, config)
        if self.run.is_done():
            return
        try:
            check_files(self.config)
        except UserError as error:
            raise UserError(
                f"trainer.init_from={self.name} is trained first, and arguments do not reach that run: {error} Train "
                f"it by itself, ablate train {self.name} KEY=VALUE..., and name that with trainer.init_from=RUN."
            ) from error
        if self.config.trainer.init_from:
            start_of(self.config).check(self.config)

    def make(self) -> None:
        """Train the run, or find it done."""
        from experiments.run import train

        log.info("training %s first, to start from it", self.name)
        train(self.config, wait=True)
        super().make()


def start_of(config: RunConfig) -> FileStart | RunStart:
    """What `trainer.init_from` names, looked up now.

    Raises:
        UserError: nothing of that name, presets that start from each other, or one that cannot be trained with the
            run's `runtime`.
    """
    from experiments.identity import run_id
    from experiments.presets import is_file_name, preset_names
    from experiments.store import RunStore

    name, store = config.trainer.init_from, RunStore(config.root)
    if name.endswith(SUFFIX):
        if not Path(name).is_file():
            raise UserError(f"trainer.init_from={name} is not there; name a preset, a run or a safetensors file.")
        return FileStart(name)
    if name in preset_names() or is_file_name(name):
        parent = _parent(config)
        return PresetStart(name, parent, store.run(run_id(parent)))
    run = store.run(name)
    if not run.config_path.is_file():
        raise UserError(
            f"trainer.init_from={name} is neither a preset, nor a run in {config.root}, nor a {SUFFIX} file; "
            "`ablate train PRESET` makes runs."
        )
    return RunStart(name, run.config(), run)


def _parent(config: RunConfig) -> RunConfig:
    """The preset that a run starts from, checked as it will be trained."""
    from experiments.config import load_config

    name = config.trainer.init_from
    runtime = {f"runtime.{key}": value for key, value in asdict(config.runtime).items() if key not in INTERVALS}
    with _nested(name):
        try:
            return load_config(name, {"seed": config.seed, **runtime})
        except UserError as error:
            raise UserError(f"trainer.init_from={name}: {error}") from error


@contextmanager
def _nested(name: str) -> Iterator[None]:
    chain = _resolving.get()
    if name in chain:
        raise UserError(f"The presets {' -> '.join((*chain, name))} start from each other.")
    token = _resolving.set((*chain, name))
    try:
        yield
    finally:
        _resolving.reset(token)
