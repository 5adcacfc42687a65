"""The diffusion timestep as a vector (DDPM's sinusoids, then a small MLP as in DiT)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_modules.layers.linear import Linear

FREQUENCIES = 256
MAX_PERIOD = 10_000


class TimestepEmbedding(nn.Module):
    """Linear(silu(Linear(sinusoids))) of timesteps in [0, 1000), fractions allowed."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(Linear(FREQUENCIES, width), nn.SiLU(), Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        """(B,) -> (B, C)."""
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        return self.mlp(sinusoids(timesteps).to(first.weight.dtype))


def sinusoids(timesteps: Tensor) -> Tensor:
    """(B,) -> (B, 256) float32: cosines, then sines, of geometrically spaced frequencies."""
    half = FREQUENCIES // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
