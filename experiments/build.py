"""The parts that a training is made of: LightningModule, tokenizer, data; and the trained generator, loaded."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from datamodules.config import DATASETS
from datamodules.encoder import ImageEncoder
from experiments.advice import check_weights
from experiments.conditions import build_text_encoder
from experiments.networks import build_network
from experiments.process import device_of
from experiments.run_config import RunConfig
from experiments.snapshots import sampled_weights
from experiments.store import Run
from lightning_modules.base import TrainingModule
from lightning_modules.checkpoints import load_safetensors
from lightning_modules.config import OBJECTIVES
from lightning_modules.generators.config import GENERATORS
from lightning_modules.tokenizers.config import TOKENIZERS


def build_module(config: RunConfig) -> TrainingModule:
    """The LightningModule of the run's objective."""
    module = OBJECTIVES.target(config.objective.name)(
        config.objective,
        build_network(config),
        config.optim,
        max_steps=config.trainer.max_steps,
        ema_decay=config.trainer.ema_decay,
        seed=config.seed,
    )
    if config.trainer.compile:
        module.model.compile()
    return module


def build_tokenizer(config: RunConfig) -> Any:
    """The frozen tokenizer, or None in stage 1."""
    return None if config.trains_tokenizer else TOKENIZERS.build(config.tokenizer).eval().requires_grad_(False)


def build_data(config: RunConfig, tokenizer: Any) -> L.LightningDataModule:
    """The data module, with token and text stores in the root's cache."""
    encoder = None
    if tokenizer is not None:
        encoder = ImageEncoder(
            lambda images: tokenizer.to(images.device).encode_uint8(images),
            config.tokenizer.fingerprint,
            config.tokenizer.vocab_size,
        )
    per_process = config.trainer.batch_size // (config.trainer.accumulate * config.runtime.processes)
    return DATASETS.target(config.data.name)(
        config.data,
        per_process,
        config.seed,
        config.runtime.num_workers,
        encoder,
        config.root / "cache",
        build_text_encoder(config, device_of(config)),
        config.trainer.accumulate,
    )


def load_generator(config: RunConfig, run: Run, device: torch.device) -> torch.nn.Module:
    """The generator in eval mode, trained to its end or up to `evaluation.snapshot`.

    Raises:
        UserError: its weights are damaged, or not there.
    """
    check_weights(run)
    generator = GENERATORS.build(config.generator)
    generator.load_state_dict(load_safetensors(sampled_weights(config, run), generator.state_dict()))
    return generator.to(device).eval().requires_grad_(False)
