"""A training step of a generator on random data, as the run would take it but for loading and logging."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.cells.base import Phase, trainable_parameters
from experiments.benchmarks.cells.inputs import random_batch
from experiments.process import autocast
from experiments.run_config import RunConfig
from lightning_modules.config import OBJECTIVES
from lightning_modules.generators.config import GENERATORS


class TrainingCell:
    """Phase `step`: forward, backward, clipping, optimiser, averaged weights."""

    def __init__(self, config: RunConfig, device: torch.device):
        torch.manual_seed(config.seed)
        self._config, self._device = config, device
        count = config.benchmark.batch_size
        module = OBJECTIVES.target(config.objective.name)(
            config.objective,
            GENERATORS.build(config.generator),
            config.optim,
            max_steps=config.trainer.max_steps,
            ema_decay=config.trainer.ema_decay,
            seed=config.seed,
        ).to(device)
        module.log = module.log_dict = _log_nothing  # there is no Trainer to log to,
        module.all_gather = _own  # nor one that knows other processes
        if config.trainer.compile:
            module.model.compile()
        self._module = module
        self._optimizer = module.build_optimizer(fused=True)
        self._batch = random_batch(config.generator, count, device)
        self.parameters = trainable_parameters(module.model)
        self.phases = {
            "step": Phase(self.step, "step_seconds", "peak_memory_bytes", count, rate="samples_per_s"),
        }

    def weights(self) -> list[nn.Parameter]:
        """What is trained."""
        return [weight for weight in self._module.model.parameters() if weight.requires_grad]

    def loss(self) -> Tensor:
        """The loss of the batch."""
        with autocast(self._config, self._device):
            return self._module.training_step(self._batch, 0)

    def step(self) -> None:
        """One optimiser step."""
        self.loss().backward()
        self._module.configure_gradient_clipping(self._optimizer)
        self._optimizer.step()
        self._module.average_weights()
        self._optimizer.zero_grad(set_to_none=True)


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    """In place of Lightning's `log` and `log_dict`."""


def _own(values: Tensor) -> Tensor:
    """In place of Lightning's `all_gather`, for a single process."""
    return values
