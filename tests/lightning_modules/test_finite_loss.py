"""A loss that is not finite ends a training before it reaches a weight."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules.base import TrainingModule
from lightning_modules.config import OptimConfig

STEPS = 3


class Regression(TrainingModule[nn.Linear]):
    """Learns to say 0, at one batch with another loss; remembers its weights and their average after each step."""

    def __init__(self, bad: float, batch: int):
        super().__init__(nn.Linear(4, 1), OptimConfig(lr=0.1), max_steps=STEPS, ema_decay=0.9, seed=0)
        self.bad, self.at = bad, batch
        self.seen = 0
        self.after: list[Any] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.model(batch).square().mean()
        self.seen += 1
        return self.watched(loss * self.bad if batch_idx == self.at else loss)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.after.append(self.weights())

    def weights(self) -> dict[str, Tensor]:
        """Those that are trained and their average."""
        return {key: value.clone() for key, value in self.state_dict().items()}


def train(module: Regression, accumulate: int) -> None:
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=STEPS, accumulate_grad_batches=accumulate, **quiet)
    trainer.fit(module, DataLoader(torch.randn(STEPS * accumulate, 8, 4), batch_size=None))


pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning", "ignore:Found 1 module"
)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(("accumulate", "batch"), [(1, 1), (2, 2), (2, 3)])
def test_the_weights_stay_those_of_the_step_before(bad: float, accumulate: int, batch: int) -> None:
    module = Regression(bad, batch)
    with pytest.raises(FloatingPointError, match=f"The loss became {bad} at step 1; try a lower optim.lr"):
        train(module, accumulate)
    (kept,) = module.after
    found = module.weights()
    assert found.keys() == kept.keys() and all(torch.equal(found[key], kept[key]) for key in kept)
    assert module.seen == 2 * accumulate, "the device is asked once a step"


def test_the_loss_of_another_process_ends_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose gradients would have reached its weights."""
    module = Regression(1.0, 0)
    monkeypatch.setattr(module, "all_gather", lambda own: torch.stack([own, torch.full_like(own, math.nan)]))
    with pytest.raises(FloatingPointError, match="The loss became nan at step 0"):
        train(module, 1)
    assert not module.after


def test_finite_losses_end_nothing() -> None:
    module = Regression(2.0, 1)
    train(module, 2)
    assert len(module.after) == STEPS and not module._losses_of_step, "a step is asked about its own losses"
