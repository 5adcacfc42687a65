"""Multi-head self-attention through PyTorch's scaled dot product (flash, cuDNN or plain, whichever the device has).

Shapes: B batch, H heads, L positions, E head width, C = H E.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXPLICIT_LENGTH = 1024
"""Longest sequence for which the (L, L) scores are formed on a CPU in bfloat16."""


class SelfAttention(nn.Module):
    """(B, L, C) -> (B, L, C), full attention, biases on all projections."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """key_mask: (B, L) bool, False where a position must not be attended to."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = attend(q, k, v, None if key_mask is None else key_mask[:, None, None, :])
        return self.out_proj(y.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(E)) v; q, k, v: (B, H, L, E), mask broadcasts to (B, H, L, L), False: not seen.

    causal: a position sees itself and those before it; instead of a mask, so that the flash kernels can be used.

    When training on a CPU in bfloat16 the two products are written out: the backward pass of PyTorch's fused CPU kernel
    took 2 to 6 times as long in this type (at B=64, H=5, L=65 and at B=32, H=12, L=257).
    """
    slow_backward = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if not slow_backward or q.shape[-2] > EXPLICIT_LENGTH:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v
