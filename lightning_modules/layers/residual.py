"""Around a residual branch: the norm in front of it, and dropout and the sum behind it.

Shapes: B batch, L positions, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from lightning_modules.kernels import residual, rms_norm


class RMSNorm(nn.RMSNorm):
    """x / rms(x) weight, modulated where asked for: (1 + scale) + shift; see `kernels.rms_norm`."""

    eps: float

    def __init__(self, width: int, eps: float):
        super().__init__(width, eps=eps)

    def forward(self, x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """x: (B, L, C) or (B, C); shift, scale: (B, C) -> as x."""
        return rms_norm(x, self.weight, eps=self.eps, shift=shift, scale=scale)


class Dropout(nn.Module):
    """dropout(x), of sequences; see `kernels.residual`.

    Args:
        dropout: the share dropped in training.
    """

    def __init__(self, dropout: float):
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        return residual(None, x, dropout=self.dropout) if self.training and self.dropout else x

    def extra_repr(self) -> str:
        """The share."""
        return f"dropout={self.dropout}"


class Residual(nn.Module):
    """x + gate dropout(h); see `kernels.residual`.

    Args:
        dropout: the share dropped in training.
    """

    def __init__(self, dropout: float):
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor, h: Tensor, gate: Tensor | None = None) -> Tensor:
        """x, h: (B, L, C); gate: (B, C) -> (B, L, C)."""
        return residual(x, h, gate=gate, dropout=self.dropout if self.training else 0.0)

    def extra_repr(self) -> str:
        """The share."""
        return f"dropout={self.dropout}"
