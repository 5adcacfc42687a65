"""Fixed two-dimensional sine-cosine position embedding (MAE, DiT), with interpolation for other resolutions.

Shapes: h x w patches, C width.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_PERIOD = 10_000


def sincos_2d(height: int, width: int, channels: int, base: int, interpolation: float = 1.0) -> Tensor:
    """(h w, C) float32; the first half of the channels tells the column, the second the row.

    Args:
        base: patches per side at the model's own resolution; another grid is stretched over the same coordinates.
        interpolation: coordinates are divided by it (PixArt's positional interpolation, arXiv 2309.16588): 2 puts a
            grid of twice the side over the coordinates that a model of half the resolution was trained on.
    """
    rows = torch.arange(height, dtype=torch.float64) / (height / base) / interpolation
    columns = torch.arange(width, dtype=torch.float64) / (width / base) / interpolation
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.cat([_sincos(column, channels // 2), _sincos(row, channels // 2)], dim=-1).float()


def _sincos(position: Tensor, channels: int) -> Tensor:
    """(h, w) coordinates -> (h w, channels): sines, then cosines."""
    omega = MAX_PERIOD ** -(torch.arange(channels // 2, dtype=torch.float64) / (channels / 2))
    angles = position.flatten()[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
