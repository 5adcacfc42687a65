"""What all LightningModules share: optimiser and schedule, averaged weights, step-keyed randomness, gradient norm.

Randomness (masks, dropped conditions, dropout) is seeded anew before every batch from (seed, step, rank). A run that
was killed and resumed therefore draws exactly what the uninterrupted run draws; checkpoints need no generator state.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Generic, TypeVar

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from lightning_modules.config import OptimConfig
from lightning_modules.sharding import is_sharded, local, shard, whole

NO_DECAY_NAMES = ("A_log", "D", "dt_bias", "position")
"""Parameters that are never decayed although some have two or more dimensions (Mamba: A, D and the bias of dt)."""
Network = TypeVar("Network", bound=nn.Module)


class TrainingModule(L.LightningModule, Generic[Network]):
    """Base of the objectives.

    Args:
        model: the network that is trained.
        optim: optimiser settings.
        max_steps: optimiser steps of the whole run; the schedule ends there.
        ema_decay: decay of the averaged weights; 0 = none.
        seed: key of all randomness in training.
    """

    def __init__(self, model: Network, optim: OptimConfig, *, max_steps: int, ema_decay: float, seed: int):
        super().__init__()
        self.model = model
        self.optim = optim
        self.max_steps = max_steps
        self.ema_decay = ema_decay
        self.seed = seed
        self.ema = copy.deepcopy(model).requires_grad_(False).eval() if ema_decay else None
        self._batch_of_step = 0
        self._losses_of_step: list[Tensor] = []

    @property
    def sampling_model(self) -> Network:
        """The weights that samples are drawn from: the averaged ones where there are any."""
        return self.model if self.ema is None else self.ema

    def configure_model(self) -> None:
        """Where the strategy is to shard the weights (FSDP), do so; Lightning asks at the start of every stage."""
        if self._device_mesh is not None and not is_sharded(self.model):
            for network in filter(None, (self.model, self.ema)):
                shard(network, self._device_mesh["data_parallel"])

    # --- randomness ---

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed this batch's randomness."""
        key = ((self.seed * 1_000_003 + self.global_step) * 1_009 + self._batch_of_step) * 1_013 + self.global_rank
        torch.manual_seed(key % 2**63)
        self._batch_of_step += 1

    # --- optimisation ---

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser; linear warm-up, then the configured schedule, both per step."""
        # A gradient scaler must unscale before a fused step.
        optimizer = self.build_optimizer(fused=not str(self.trainer.precision).startswith("16"))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def build_optimizer(self, fused: bool) -> torch.optim.Optimizer:
        """AdamW (`fused` or not) or CAME, with decay on parameters of two or more dimensions: matrices, kernels and
        tables, but also the scales and shifts (1, 1, 1, C) of aMUSEd's response norms, which its script decays too."""
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        decay = [p for name, p in named if p.dim() >= 2 and not _exempt(name)]
        rest = [p for name, p in named if p.dim() < 2 or _exempt(name)]
        groups = [{"params": decay, "weight_decay": self.optim.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        if self.optim.optimizer == "came":
            from came_pytorch import CAME

            return CAME(groups, lr=self.optim.lr, betas=tuple(self.optim.betas))
        beta1, beta2 = self.optim.betas
        return torch.optim.AdamW(groups, lr=self.optim.lr, betas=(beta1, beta2), fused=fused)

    def _lr_factor(self, step: int) -> float:
        if step < self.optim.warmup_steps:
            return (step + 1) / self.optim.warmup_steps
        done = (step - self.optim.warmup_steps) / max(1, self.max_steps - self.optim.warmup_steps)
        if self.optim.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return max(0.0, 1 - done) if self.optim.schedule == "linear" else 1.0

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip the global gradient norm and log what it was before, and the learning rate of the step.

        Raises:
            FloatingPointError: a loss of this step is NaN or infinite, in any process. No weight has changed yet.
        """
        limit = self.optim.gradient_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.log_dict({"train/grad_norm": whole(norm), "train/lr": optimizer.param_groups[0]["lr"]})
        self._check_finite()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and move the averaged weights; the next batch is the first of the next step."""
        super().optimizer_step(*args, **kwargs)
        self.average_weights()
        self._batch_of_step = 0

    @torch.no_grad()
    def average_weights(self) -> None:
        """Move the averaged weights by what this step did, which is not counted yet; every step calls it once."""
        if self.ema is None:
            return
        # Young averages forget faster, so that the random start does not linger in short runs.
        decay = min(self.ema_decay, (2 + self.global_step) / (11 + self.global_step))
        average, weights = ([local(p) for p in x.parameters()] for x in (self.ema, self.model))
        torch._foreach_lerp_(average, weights, 1 - decay)

    def over_processes(self, sums: Tensor) -> Tensor:
        """Sums of this process, (K,) or scalar -> of all processes. Collective."""
        gathered = self.all_gather(sums)
        assert isinstance(gathered, Tensor)  # as it is of a tensor; its type also covers dictionaries of them
        return gathered.reshape(-1, *sums.shape).sum(0)

    def watched(self, loss: Tensor) -> Tensor:
        """The loss of a batch, which the step it belongs to is not taken with unless it is finite."""
        self._losses_of_step.append(loss.detach())
        return loss

    def _check_finite(self) -> None:
        """Once a step: whoever asks waits for the device. Of all processes, as their gradients are one. Collective."""
        total = self.over_processes(sum(self._losses_of_step, torch.zeros((), device=self.device)))
        self._losses_of_step.clear()
        if not torch.isfinite(total):
            raise FloatingPointError(
                f"The loss became {total.item()} at step {self.global_step}; "
                "try a lower optim.lr or trainer.precision=fp32."
            )


def _exempt(name: str) -> bool:
    return any(part.startswith(NO_DECAY_NAMES) for part in name.split("."))
