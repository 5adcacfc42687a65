"""Masked-token modelling: hide a random share of the tokens and predict them (MaskGIT; MaskMamba section 3.1).

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.conditions import Condition, condition_of
from lightning_modules.config import MaskedConfig, OptimConfig
from lightning_modules.token_training import TokenTraining

VALIDATION_SEED = 20_240_929
"""Validation hides the same tokens at every step, and in every run with as many devices and samples a batch
on each: the draw goes by the number of the batch on its device. Between other runs losses differ by this draw too."""


class MaskedModule(TokenTraining):
    """Cross-entropy on hidden tokens, with the condition dropped now and then for classifier-free guidance."""

    def __init__(self, objective: MaskedConfig, model: nn.Module, optim: OptimConfig, **training: Any):
        super().__init__(model, optim, **training)
        self.objective = objective
        self.mask_ratio = MaskRatio(objective)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """batch: "tokens" (B, L) int64 and "label" (B,) or "text" (`TextFeatures`) -> scalar loss."""
        tokens, condition = batch["tokens"], condition_of(batch)
        count, length = tokens.shape
        masked = hide(self.mask_ratio(count, tokens.device), length)
        drop = torch.rand(count, device=tokens.device) < self.objective.condition_dropout
        logits = self._logits(self.model, tokens, masked, condition, drop)
        places = masked.nonzero(as_tuple=True)  # the host waits for the device to count them, so once
        # Chosen first, widened then: at 16,384 codes the logits are the largest tensor of a step.
        hidden, answers = logits[places].float(), tokens[places]
        if self.objective.loss_on == "masked":
            judged = hidden, answers
        else:
            judged = logits.flatten(0, 1).float(), tokens.flatten()
        loss = F.cross_entropy(*judged, label_smoothing=self.objective.label_smoothing)
        return self.log_step(loss, hidden, answers)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """batch: as in training; hidden tokens are counted, without label smoothing, the condition always given."""
        tokens = batch["tokens"]
        generator = torch.Generator().manual_seed(VALIDATION_SEED + batch_idx)
        ratio = self.mask_ratio(len(tokens), torch.device("cpu"), generator)
        masked = hide(ratio, tokens.shape[1], generator).to(tokens.device)
        drop = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        logits = self._logits(self.sampling_model, tokens, masked, condition_of(batch), drop)
        places = masked.nonzero(as_tuple=True)
        self.count(logits[places].float(), tokens[places])

    @staticmethod
    def _logits(model: Any, tokens: Tensor, masked: Tensor, condition: Condition, drop: Tensor) -> Tensor:
        context = model.embed_condition(condition, drop)
        return model(tokens.masked_fill(masked, model.mask_token), context)


class MaskRatio:
    """Masked share of samples, drawn as the configuration says."""

    def __init__(self, config: MaskedConfig):
        self.config = config
        normal = torch.distributions.Normal(config.mask_ratio_mean, config.mask_ratio_std)
        self._mean, self._std = normal.mean.item(), normal.stddev.item()
        self._below_low, self._below_high = (
            normal.cdf(torch.tensor(bound, dtype=torch.float64)).item()
            for bound in (config.mask_ratio_low, config.mask_ratio_high)
        )

    def __call__(self, count: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """For each of `count` samples, (B,): one draw for all, or one each."""
        c = self.config
        draws = 1 if c.ratio_per == "batch" else count
        u = torch.rand(draws, device=device, generator=generator, dtype=torch.float64)
        match c.mask_ratio:
            case "uniform":
                ratio = c.mask_ratio_low + (c.mask_ratio_high - c.mask_ratio_low) * u
            case "cosine":
                ratio = torch.cos(math.pi / 2 * u)
            case "mage":  # inverse of the truncated normal's cumulative distribution
                share = self._below_low + (self._below_high - self._below_low) * u
                ratio = self._mean + self._std * torch.erfinv(2 * share - 1) * math.sqrt(2)
                ratio = ratio.clamp(c.mask_ratio_low, c.mask_ratio_high)
        return ratio.expand(count)


def hide(ratio: Tensor, length: int, generator: torch.Generator | None = None) -> Tensor:
    """Choose exactly ceil(ratio L) positions (at least one) of each row at random: (B,) -> (B, L) bool."""
    count = (ratio * length).ceil().clamp(1, length)
    order = torch.rand(len(ratio), length, device=ratio.device, generator=generator).argsort(-1)
    return order.argsort(-1) < count[:, None]
