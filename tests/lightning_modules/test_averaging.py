"""Averaged weights: what they are after every step, the last one too."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_modules.base import TrainingModule
from lightning_modules.config import OptimConfig

DECAY = 0.3


class Regression(TrainingModule[nn.Linear]):
    """Learns a sum; remembers the weights after each step and the index of each batch within its step."""

    def __init__(self, ema_decay: float):
        super().__init__(nn.Linear(4, 1), OptimConfig(lr=0.1), max_steps=3, ema_decay=ema_decay, seed=0)
        self.after = [copy.deepcopy(self.model.weight)]
        self.places: list[int] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.places.append(self._batch_of_step)
        return (self.model(batch) - batch.sum(1, keepdim=True)).square().mean()

    def on_train_batch_end(self, outputs: Any, batch: torch.Tensor, batch_idx: int) -> None:
        if len(self.after) == self.global_step:
            self.after.append(copy.deepcopy(self.model.weight))


@pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning", "ignore:Found 1 module")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_is_over_all_steps(accumulate: int) -> None:
    torch.manual_seed(0)
    module = Regression(DECAY)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=3,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(torch.randn(6, 8, 4), batch_size=None))
    assert module.places == list(range(1, accumulate + 1)) * 3
    assert len(module.after) == 4
    average = module.after[0]
    for step, weights in enumerate(module.after[1:], 1):
        decay = min(DECAY, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights
    assert module.ema is not None
    torch.testing.assert_close(module.ema.weight, average)
    assert module.sampling_model is module.ema


def test_without_a_decay_there_is_no_average() -> None:
    module = Regression(0.0)
    module.average_weights()
    assert module.ema is None and module.sampling_model is module.model
