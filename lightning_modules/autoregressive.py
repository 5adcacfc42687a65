"""Autoregressive modelling: predict every token from the condition and the tokens before it (LlamaGen; AiM section 3).

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.base import TrainingModule
from lightning_modules.conditions import condition_of
from lightning_modules.config import AutoregressiveConfig, OptimConfig

VALIDATION_SEED = 20_240_822
"""Validation without a share of the conditions leaves out the same ones at every step, and in every run with as many
devices and samples a batch on each: the draw goes by the number of the batch on its device."""


class AutoregressiveModule(TrainingModule[nn.Module]):
    """Cross-entropy under teacher forcing, with the condition dropped now and then for classifier-free guidance."""

    def __init__(self, objective: AutoregressiveConfig, model: nn.Module, optim: OptimConfig, **training: Any):
        super().__init__(model, optim, **training)
        self.objective = objective

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """batch: "tokens" (B, L) int64 and "label" (B,) or "text" (`TextFeatures`) -> scalar loss."""
        tokens = batch["tokens"]
        drop = torch.rand(len(tokens), device=tokens.device) < self.objective.condition_dropout
        logits = self._logits(self.model, batch, drop)
        smoothing = self.objective.label_smoothing
        loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), label_smoothing=smoothing)
        with torch.no_grad():
            accuracy = (logits.argmax(-1) == tokens).float().mean()
        # Against ln V, the loss of a uniform guess: below 1 the model has learnt something.
        relative = loss.detach() / math.log(logits.shape[-1])
        self.log_dict({"train/loss": loss, "train/accuracy": accuracy, "train/loss_over_ln_v": relative}, prog_bar=True)
        return self.watched(loss)

    def on_validation_epoch_start(self) -> None:
        self._nll, self._correct, self._count = torch.zeros(3, dtype=torch.float64, device=self.device).unbind()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Negative log-likelihood and accuracy of every token, without label smoothing."""
        tokens = batch["tokens"]
        generator = torch.Generator().manual_seed(VALIDATION_SEED + batch_idx)
        drop = torch.rand(len(tokens), generator=generator) < self.objective.validation_dropout
        logits = self._logits(self.sampling_model, batch, drop.to(tokens.device))
        self._nll += F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum").double()
        self._correct += (logits.argmax(-1) == tokens).sum()
        self._count += tokens.numel()

    def on_validation_epoch_end(self) -> None:
        """Log the mean over all tokens: nats, bits, and accuracy."""
        nll, correct, count = (self.over_processes(x) for x in (self._nll, self._correct, self._count))
        nll = nll / count
        metrics = {"val/loss": nll, "val/bits_per_token": nll / math.log(2), "val/accuracy": correct / count}
        self.log_dict({k: v.float() for k, v in metrics.items()}, prog_bar=True)

    @staticmethod
    def _logits(model: Any, batch: dict[str, Tensor], drop: Tensor) -> Tensor:
        return model(batch["tokens"], model.embed_condition(condition_of(batch), drop)).float()
