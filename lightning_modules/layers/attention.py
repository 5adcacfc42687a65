"""Multi-head self-attention.

Shapes: B batch, H heads, L positions, E head width, C = H E.
"""

from __future__ import annotations

from torch import Tensor, nn

from lightning_modules.kernels import attend
from lightning_modules.layers.linear import Linear


class SelfAttention(nn.Module):
    """(B, L, C) -> (B, L, C), full attention, biases on all projections.

    backend: of `attend`; None chooses.
    """

    backend: str | None = None

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """key_mask: (B, L) bool, False where a position must not be attended to."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = attend(q, k, v, None if key_mask is None else key_mask[:, None, None, :], backend=self.backend)
        return self.out_proj(y.transpose(1, 2).flatten(2))
