"""What training on tokens logs, whichever of them are predicted.

Shapes: N predicted tokens, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.base import TrainingModule


class TokenTraining(TrainingModule[nn.Module]):
    """Loss and accuracy of a step; negative log-likelihood and accuracy of a validation."""

    def log_step(self, loss: Tensor, logits: Tensor, answers: Tensor) -> Tensor:
        """Log a step; returns its loss, `watched`.

        Args:
            loss: scalar.
            logits, answers: (.., V) and (..) int64, of which the accuracy is told.
        """
        with torch.no_grad():
            accuracy = (logits.argmax(-1) == answers).float().mean()
        # Against ln V, the loss of a uniform guess: below 1 the model has learnt something.
        relative = loss.detach() / math.log(logits.shape[-1])
        self.log_dict({"train/loss": loss, "train/accuracy": accuracy, "train/loss_over_ln_v": relative}, prog_bar=True)
        return self.watched(loss)

    def on_validation_epoch_start(self) -> None:
        """Begin the sums: negative log-likelihood, right answers, answers."""
        self._sums = torch.zeros(3, dtype=torch.float64, device=self.device)

    def count(self, logits: Tensor, answers: Tensor) -> None:
        """Add what a validation predicts: (N, V) float32 of (N,) int64."""
        nll, right = F.cross_entropy(logits, answers, reduction="sum"), logits.argmax(-1) == answers
        self._sums += torch.stack([nll.double(), right.sum().double(), torch.ones_like(right).sum().double()])

    def on_validation_epoch_end(self) -> None:
        """Log the mean over all predicted tokens: nats, bits, and accuracy."""
        nll, correct, count = self.over_processes(self._sums)
        nll = nll / count
        metrics = {"val/loss": nll, "val/bits_per_token": nll / math.log(2), "val/accuracy": correct / count}
        self.log_dict({key: value.float() for key, value in metrics.items()}, prog_bar=True)
