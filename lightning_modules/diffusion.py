"""Latent diffusion: estimate the noise, the velocity or the flow in noisy latents (IDDPM, PixArt, Dimba section 3).

Shapes: B batch, D latent channels, h x w latent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.base import TrainingModule
from lightning_modules.conditions import Condition, condition_of
from lightning_modules.config import DiffusionConfig, OptimConfig
from lightning_modules.generators.dimba import Dimba
from lightning_modules.noising import Noised, add_noise, linear_schedule, variational_bound

VALIDATION_SEED = 20_240_603
"""Validation adds the same noise at every step, and in every run with as many devices and samples a batch
on each: the draw goes by the number of the batch on its device. Between other runs losses differ by this draw too."""


class Terms(NamedTuple):
    """What the loss is made of, per sample, (B,)."""

    mse: Tensor
    bound: Tensor | None  # bits per dimension, where the variance is learned


class DiffusionModule(TrainingModule[Dimba]):
    """Squared error of the estimate, and the variational bound for the variance where it is learned."""

    def __init__(self, objective: DiffusionConfig, model: Dimba, optim: OptimConfig, **training: Any):
        super().__init__(model, optim, **training)
        self.objective = objective
        self.schedule = linear_schedule()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """batch: "latents" (B, D, h, w) float32 and "label" (B,) or "text" (`TextFeatures`) -> scalar loss."""
        x0, condition = batch["latents"], condition_of(batch)
        time = torch.rand(len(x0), device=x0.device)
        if self.objective.timesteps == "logit_normal":
            time = torch.special.ndtri(time.clamp(1e-6, 1 - 1e-6)).sigmoid()
        drop = torch.rand(len(x0), device=x0.device) < self.objective.condition_dropout
        terms = self._terms(self.model, x0, torch.randn_like(x0), time, condition, drop)
        mse = loss = terms.mse.mean()
        logged = {"train/mse": mse}
        if terms.bound is not None:
            bound = terms.bound.mean()
            loss = mse + self.objective.variance_weight * bound
            logged["train/bound"] = bound
        self.log_dict({"train/loss": loss, **logged}, prog_bar=True)
        return self.watched(loss)

    def on_validation_epoch_start(self) -> None:
        """Begin the sums: squared error, bound, samples."""
        self._sums = torch.zeros(3, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """batch: as in training; times are spread evenly over the process, and the condition is always given."""
        x0 = batch["latents"]
        generator = torch.Generator().manual_seed(VALIDATION_SEED + batch_idx)
        noise = torch.randn(x0.shape, generator=generator).to(x0.device)
        offset = torch.rand((), generator=generator)
        order = torch.randperm(len(x0), generator=generator)
        time = ((order + offset) / len(x0)).to(x0.device)
        drop = torch.zeros(len(x0), dtype=torch.bool, device=x0.device)
        terms = self._terms(self.sampling_model, x0, noise, time, condition_of(batch), drop)
        bound = torch.zeros_like(terms.mse) if terms.bound is None else terms.bound
        self._sums += torch.stack([terms.mse.sum(), bound.sum(), terms.mse.new_tensor(len(x0))]).double()

    def on_validation_epoch_end(self) -> None:
        """Log means over all samples: val/loss is the squared error; val/bound in bits per dimension."""
        mse, bound, count = self.over_processes(self._sums)
        metrics = {"val/loss": mse / count}
        if self.model.config.learned_variance:
            metrics["val/bound"] = bound / count
        self.log_dict({key: value.float() for key, value in metrics.items()}, prog_bar=True)

    def _terms(self, model: Any, x0: Tensor, noise: Tensor, time: Tensor, condition: Condition, drop: Tensor) -> Terms:
        """Noise at `time` (B,) in [0, 1], one forward pass, and its errors."""
        config = model.config
        self.schedule = self.schedule.to(x0.device)  # once, or every step would wait for twelve copies
        noised: Noised = add_noise(self.schedule, config.prediction, x0, noise, time)
        output = model(noised.latents, model.embed_condition(condition, drop), noised.timesteps).float()
        variance = None
        if config.learned_variance:
            output, variance = output.chunk(2, dim=1)
        mse = F.mse_loss(output, noised.target, reduction="none").flatten(1).mean(1)
        if variance is None:
            return Terms(mse, None)
        bound = variational_bound(self.schedule, config.prediction, x0, noised, output.detach(), variance)
        return Terms(mse, bound)
