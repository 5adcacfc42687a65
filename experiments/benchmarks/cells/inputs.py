"""Random conditions and batches, of the shapes that a configuration asks for.

Shapes: B batch, L tokens, S side of the latents, T text tokens, E and P widths of text features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_modules.conditions import Condition, TextFeatures


def random_condition(generator: Any, count: int, device: torch.device) -> Condition:
    """Labels, or captions of full length, for a generator's configuration."""
    if generator.condition == "class":
        return torch.arange(count, device=device) % generator.num_classes
    features = torch.randn(count, generator.text_tokens, generator.text_width, device=device)
    mask = torch.ones(count, generator.text_tokens, dtype=torch.bool, device=device)
    width = getattr(generator, "pooled_width", 0)
    return TextFeatures(features, mask, torch.randn(count, width, device=device) if width else None)


def random_batch(generator: Any, count: int, device: torch.device) -> dict[str, Any]:
    """What a training step takes: "tokens" (B, L) or "latents" (B, C, S, S), and the condition."""
    condition = random_condition(generator, count, device)
    side = generator.grid_size
    if channels := getattr(generator, "latent_channels", 0):
        codes: dict[str, Tensor] = {"latents": torch.randn(count, channels, side, side, device=device)}
    else:
        codes = {"tokens": torch.randint(generator.vocab_size, (count, side * side), device=device)}
    return {**codes, "label" if generator.condition == "class" else "text": condition}
