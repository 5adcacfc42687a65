"""Autoregressive modelling: predict every token from the condition and the tokens before it (LlamaGen; AiM section 3).

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.conditions import condition_of
from lightning_modules.config import AutoregressiveConfig, OptimConfig
from lightning_modules.token_training import TokenTraining

VALIDATION_SEED = 20_240_822
"""Validation without a share of the conditions leaves out the same ones at every step, and in every run with as many
devices and samples a batch on each: the draw goes by the number of the batch on its device."""


class AutoregressiveModule(TokenTraining):
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
        return self.log_step(loss, logits, tokens)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """batch: as in training; every token is counted, without label smoothing."""
        tokens = batch["tokens"]
        generator = torch.Generator().manual_seed(VALIDATION_SEED + batch_idx)
        drop = torch.rand(len(tokens), generator=generator) < self.objective.validation_dropout
        logits = self._logits(self.sampling_model, batch, drop.to(tokens.device))
        self.count(logits.flatten(0, 1), tokens.flatten())

    @staticmethod
    def _logits(model: Any, batch: dict[str, Tensor], drop: Tensor) -> Tensor:
        return model(batch["tokens"], model.embed_condition(condition_of(batch), drop)).float()
