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

    def embed_condition(self, condition: Condition, drop: Tensor): ...

    def __call__(self, tokens: Tensor, context) -> Tensor: ...


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


def starting_tokens(generator: MaskedGenerator, noise: Noise, known: Tensor | None) -> Tensor:
    """(B, L): a copy of the known tokens, or masks throughout."""
    if known is not None:
        return known.clone()
    keys = noise.keys
    return keys.new_full((len(keys), generator.config.grid_size**2), generator.mask_token)


class Guided:
    """A generator under a condition: tokens (B, L), s -> logits (B, L, V). The condition is embedded once."""

    def __init__(
        self, generator: MaskedGenerator, condition: Condition, count: int, guided: bool, device: torch.device
    ):
        drop = torch.zeros(count, dtype=torch.bool, device=device)
        if guided:
            condition = repeat_condition(condition)
            drop = torch.cat([drop, ~drop])
        self.generator = generator
        self.guided = guided
        self.context = generator.embed_condition(condition, drop)

    def logits(self, tokens: Tensor, scale: float) -> Tensor:
        """One forward pass, of the doubled batch where guidance is on."""
        if not self.guided:
            return self.generator(tokens, self.context)
        conditional, unconditional = self.generator(torch.cat([tokens, tokens]), self.context).float().chunk(2)
        return torch.lerp(unconditional, conditional, scale)
