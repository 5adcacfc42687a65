"""Runs that start from the weights of others: a higher resolution, or tuning on a chosen part of the data.

`trainer.init_from` names the start: a preset, whose run is trained first where it is missing; the id of a run; or a
safetensors file. What enters the identity is not that name but `trainer.init_fingerprint`: the training hash of the
run (so that it is known before the run is trained), or the checksum of the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import UserError
from lightning_modules.hashing import file_sha256

if TYPE_CHECKING:
    from experiments.run_config import RunConfig
    from lightning_modules.base import TrainingModule

log = logging.getLogger("ablate")
SUFFIX = ".safetensors"
INTERVALS = ("log_every", "val_every", "sample_every", "checkpoint_every")
"""What a parent takes from its own preset of the section `runtime`; the rest (root, devices, ..) is the child's."""
_resolving: ContextVar[tuple[str, ...]] = ContextVar("resolving", default=())


def fingerprint(config: RunConfig) -> str:
    """What identifies the weights that a run starts from.

    Raises:
        UserError: nothing of that name, or presets that start from each other.
    """
    from experiments.identity import training_hash

    name = config.trainer.init_from
    if name.endswith(SUFFIX):
        if not Path(name).is_file():
            raise UserError(f"trainer.init_from={name} is not there; name a preset, a run or a safetensors file.")
        return file_sha256(Path(name))
    with _nested(name):
        return training_hash(parent_config(config))


def parent_config(config: RunConfig) -> RunConfig:
    """The configuration of the run that another one starts from; a preset is trained with the child's seed."""
    from experiments.config import load_config, read_config

    name = config.trainer.init_from
    if _is_preset(name):
        parent = load_config(name, {"seed": config.seed})
        own = {key: getattr(parent.runtime, key) for key in INTERVALS}
        parent.runtime = replace(config.runtime, **own)
        return parent
    folder = config.root / "runs" / name
    if not (folder / "config.yaml").is_file():
        raise UserError(
            f"trainer.init_from={name} is neither a preset, nor a run in {config.root}, nor a {SUFFIX} file; "
            "`ablate train PRESET` makes runs."
        )
    return read_config(folder / "config.yaml")


def start(config: RunConfig, module: TrainingModule) -> None:
    """Put the weights that the run starts from into `module`, after training the run that they are from.

    Raises:
        UserError: a parent that is not trained and cannot be, or whose network is another.
        FileNotFoundError, ValueError: no such file of weights, or one of another network.
    """
    from lightning_modules.adapt import adapt
    from lightning_modules.checkpoints import read_weights

    weights = _weights(config)
    state, resized = adapt(weights, read_weights(weights), module.model)
    module.model.load_state_dict(state)
    if module.ema is not None:
        module.ema.load_state_dict(state)
    log.info("starting from %s%s", weights, f", with {', '.join(resized)} resized" if resized else "")


def check_start(config: RunConfig) -> None:
    """Raise UserError where the run to start from is named by its id and not trained to its end, or has a network whose
    weights this one cannot start from."""
    from experiments.runs import not_trained
    from experiments.store import RunStore

    name = config.trainer.init_from
    if not name or name.endswith(SUFFIX):
        return
    if not _is_preset(name) and not (parent := RunStore(config.root).find(name)).is_done():
        raise not_trained(parent, f"trainer.init_from={name}")
    _check_network(config)


def _check_network(config: RunConfig) -> None:
    """Compare shapes, on the meta device: weights need not exist."""
    import torch

    from experiments.run import new_network
    from lightning_modules.adapt import adapt

    with torch.device("meta"):
        ours, theirs = new_network(config), new_network(parent_config(config))
    try:
        adapt(config.trainer.init_from, theirs.state_dict(), ours)
    except ValueError as error:
        raise UserError(f"trainer.init_from={config.trainer.init_from}: {error}") from error


def _is_preset(name: str) -> bool:
    from experiments.config import preset_names

    return name in preset_names() or name.endswith((".yaml", ".yml"))


def record(config: RunConfig) -> dict[str, Any]:
    """What the provenance of a run says about its start."""
    weights = _weights_path(config)
    return {
        "init_from": config.trainer.init_from,
        "fingerprint": config.trainer.init_fingerprint,
        "weights_sha256": file_sha256(weights) if weights.is_file() else None,
    }


def _weights(config: RunConfig) -> Path:
    """The file of weights; made first where it belongs to a preset."""
    from experiments.run import train
    from experiments.runs import check_weights
    from experiments.store import Run

    name = config.trainer.init_from
    path = _weights_path(config)
    if name.endswith(SUFFIX):
        return path
    check_start(config)
    if _is_preset(name):
        log.info("training %s first, to start from it", name)
        train(parent_config(config), wait=True)
    check_weights(Run(path.parent.parent))
    return path


def _weights_path(config: RunConfig) -> Path:
    from experiments.identity import run_id
    from experiments.store import RunStore

    if config.trainer.init_from.endswith(SUFFIX):
        return Path(config.trainer.init_from)
    return RunStore(config.root).run(run_id(parent_config(config))).final_weights


@contextmanager
def _nested(name: str) -> Iterator[None]:
    chain = _resolving.get()
    if name in chain:
        raise UserError(f"trainer.init_from: {' -> '.join((*chain, name))} start from each other.")
    token = _resolving.set((*chain, name))
    try:
        yield
    finally:
        _resolving.reset(token)
