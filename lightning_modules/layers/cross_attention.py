"""Multi-head cross-attention from image positions to condition tokens.

Shapes: B batch, H heads, L positions, T condition tokens, C width.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from lightning_modules.kernels import attend
from lightning_modules.layers.linear import Linear


class KeysValues(NamedTuple):
    """What a cross-attention makes of its condition, which is the same in every step of sampling."""

    keys: Tensor  # (B, H, T, C / H)
    values: Tensor  # (B, H, T, C / H)


class CrossAttention(nn.Module):
    """(B, L, C), (B, T, C) -> (B, L, C).

    Args:
        width: C.
        heads: H.
        bias: on all projections.
    """

    def __init__(self, width: int, heads: int, bias: bool = True):
        super().__init__()
        self.heads = heads
        self.q = Linear(width, width, bias=bias)
        self.kv = Linear(width, 2 * width, bias=bias)
        self.out_proj = Linear(width, width, bias=bias)

    def keys_values(self, condition: Tensor) -> KeysValues:
        """condition: (B, T, C)."""
        return KeysValues(*self.kv(condition).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4))

    def forward(self, x: Tensor, condition: Tensor | KeysValues, mask: Tensor | None = None) -> Tensor:
        """mask: (B, T) bool, False at padding; where a sample has nothing else, its positions get out_proj's bias."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.keys_values(condition) if isinstance(condition, Tensor) else condition
        y = attend(q, k, v, None if mask is None else mask[:, None, None, :])
        return self.out_proj(y.transpose(1, 2).flatten(2))
