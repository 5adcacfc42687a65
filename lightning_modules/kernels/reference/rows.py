"""Norms, residual branches and SwiGLU's activation in PyTorch's own functions: the definition, and for GPUs, where
torch.compile fuses them.

Shapes: B batch, L positions, C channels, H hidden width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(
    x: Tensor, weight: Tensor | None, gate: Tensor | None, shift: Tensor | None, scale: Tensor | None, eps: float
) -> Tensor:
    """x, gate: (B, L, C); weight: (C,); shift, scale: (B, C) -> (B, L, C)."""
    gated = x if gate is None else x * F.silu(gate)
    # A weight of another dtype than its input would keep PyTorch from its fused kernel.
    y = F.rms_norm(gated, gated.shape[-1:], None if weight is None else weight.to(gated.dtype), eps)
    return y if shift is None or scale is None else torch.addcmul(shift[:, None], y, 1 + scale[:, None])


def residual(x: Tensor | None, h: Tensor, gate: Tensor | None, dropout: float) -> Tensor:
    """x, h: (B, L, C); gate: (B, C) -> (B, L, C)."""
    h = F.dropout(h, dropout) if dropout else h
    h = h if gate is None else gate[:, None] * h
    return h if x is None else x + h


def swiglu(gate_up: Tensor) -> Tensor:
    """(B, L, 2 H) -> (B, L, H)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
