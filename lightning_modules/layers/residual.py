"""The ends of a residual branch: the norm in front of it, dropout, and the sum behind it.

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


class Dropout(nn.Dropout):
    """`nn.Dropout` by the suite's kernels; see `kernels.residual`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        return residual(None, x, dropout=self.p) if self.training and self.p else x


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
        """As `nn.Dropout`'s."""
        return f"dropout={self.dropout}"
