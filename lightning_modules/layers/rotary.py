"""2-D rotary position embedding (RoFormer, arXiv 2104.09864, on the rows and columns of a token grid, as in LlamaGen).

Shapes: B batch, H heads, L positions, E head width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def rotation_table(
    side: int, head_width: int, base: float, prefix: int = 0, prefix_rotation: Literal["identity", "zero"] = "identity"
) -> Tensor:
    """(prefix + side ** 2, E / 2, 2): cosine and sine of the angle of each position and channel pair.

    The first half of the pairs turns with the row, the second with the column, both by base^(-4 j / E). `prefix`
    positions in front are not turned, or multiplied by zero.
    """
    pairs = head_width // 4
    frequency = base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angle = torch.arange(side, dtype=torch.float64)[:, None] * frequency
    grid = torch.cat([angle[:, None].expand(-1, side, -1), angle[None].expand(side, -1, -1)], dim=-1).flatten(0, 1)
    turned = torch.stack([grid.cos(), grid.sin()], dim=-1).float()
    unturned = torch.zeros(prefix, *turned.shape[1:])
    if prefix_rotation == "identity":
        unturned[..., 0] = 1
    return torch.cat([unturned, turned])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """x: (B, H, L, E), table: (L, E / 2, 2) -> (B, H, L, E), channels 2j and 2j + 1 turned as a pair, in x's dtype."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)
