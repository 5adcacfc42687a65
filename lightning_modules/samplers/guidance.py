"""Classifier-free guidance on logits: l = (1 - s) l_u + s l_c, from one doubled batch (MaskMamba section 3.3)."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_modules.conditions import Condition, repeat_condition
from lightning_modules.samplers.noise import Noise


class MaskedGenerator(Protocol):
    """What the masked samplers need of a generator."""

    config: Any
    mask_token: int

    def sampling_context(self, condition: Condition, drop: Tensor) -> Any:
        """Labels (B,) or text features, and who goes without (B,) bool -> the context of a call."""

    def __call__(self, tokens: Tensor, context: Any) -> Tensor:
        """(B, L) int64, `mask_token` where hidden -> logits (B, L, V)."""


def guidance_scale(scale: float, schedule: str, progress: float) -> float:
    """s at `progress` in [0, 1]: constant, or rising from 1 to `scale` along a line or half a cosine."""
    match schedule:
        case "constant":
            return scale
        case "linear":
            return 1 + (scale - 1) * progress
        case "cosine":
            return 1 + (scale - 1) * (1 - math.cos(math.pi * progress)) / 2
    raise ValueError(f"guidance schedule '{schedule}' is not one of constant, linear, cosine.")


class Guided:
    """A generator under a condition, with the tokens that it fills in. What depends on the condition alone is computed
    once, and so are buffers: a step writes its tokens to both halves of the batch of guidance.

    Args:
        generator: in eval mode.
        condition: of the B samples.
        noise: the batch's randomness.
        guided: with a second half, without the condition.
        known: (B, L) int64, the tokens to start from; None: masks throughout.
    """

    def __init__(
        self, generator: MaskedGenerator, condition: Condition, noise: Noise, guided: bool, known: Tensor | None = None
    ):
        count, length = len(noise.keys), generator.config.grid_size**2
        drop = torch.zeros(count, dtype=torch.bool, device=noise.keys.device)
        if guided:
            condition, drop = repeat_condition(condition), torch.cat([drop, ~drop])
        self.generator = generator
        self.guided = guided
        self.context = generator.sampling_context(condition, drop)
        self._halves = noise.keys.new_full((1 + guided, count, length), generator.mask_token)
        if known is not None:
            self._halves.copy_(known)

    @property
    def tokens(self) -> Tensor:
        """(B, L) int64: those of now; `reveal` changes them in place."""
        return self._halves[0]

    def logits(self, scale: float) -> Tensor:
        """One forward pass, of the doubled batch where guidance is on -> (B, L, V)."""
        logits = self.generator(self._halves.flatten(0, 1), self.context)
        if not self.guided:
            return logits
        conditional, unconditional = logits.float().chunk(2)
        return torch.lerp(unconditional, conditional, scale)

    def reveal(self, where: Tensor, drawn: Tensor) -> None:
        """Put drawn tokens (B, L) in the places where (B, L) is true."""
        torch.where(where, drawn, self._halves, out=self._halves)
