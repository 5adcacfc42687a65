"""Sampling from a generator with random weights: what it costs does not depend on what they are."""

from __future__ import annotations

import torch

from experiments.benchmarks.cells.base import Phase, trainable_parameters
from experiments.benchmarks.cells.inputs import random_condition
from experiments.errors import UserError
from experiments.process import autocast
from experiments.run_config import RunConfig
from lightning_modules.generators.config import GENERATORS
from lightning_modules.samplers.config import SAMPLERS
from lightning_modules.samplers.noise import Noise


class GenerationCell:
    """Phase `generation`: one batch of tokens or latents, from nothing, without decoding to pixels."""

    def __init__(self, config: RunConfig, device: torch.device):
        if config.trainer.compile and config.objective.name == "autoregressive":
            raise UserError("trainer.compile changes nothing in generation token by token; leave it out.")
        torch.manual_seed(config.seed)
        self._config, self._device, self._count = config, device, config.benchmark.batch_size
        self._generator = GENERATORS.build(config.generator).to(device).eval()
        self.parameters = trainable_parameters(self._generator)
        self._generator.requires_grad_(False)
        if config.trainer.compile:
            self._generator.compile()
        self._sampler = SAMPLERS.build(config.sampler)
        self._condition = random_condition(config.generator, self._count, device)
        self.phases = {
            "generation": Phase(
                self._generate,
                "seconds_per_image",
                "peak_memory_bytes",
                self._count,
                per_item=True,
                rate="images_per_s",
            )
        }

    @torch.inference_mode()
    def _generate(self) -> None:
        noise = Noise(0, torch.arange(self._count, device=self._device))
        with autocast(self._config, self._device):
            self._sampler(self._generator, self._condition, noise)
