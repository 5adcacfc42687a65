"""Dimba's two kinds of block, and its head. The Transformer block is PixArt's (arXiv 2310.00426, section 2.3).

Shapes: B batch, L positions, T condition tokens, C width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_modules.generators.configs.dimba import DimbaConfig
from lightning_modules.kernels import residual
from lightning_modules.layers.adaln import modulate
from lightning_modules.layers.attention import SelfAttention
from lightning_modules.layers.bi_mamba import BiMamba
from lightning_modules.layers.block import NORM_EPS
from lightning_modules.layers.cross_attention import CrossAttention, KeysValues
from lightning_modules.layers.linear import Linear
from lightning_modules.layers.residual import RMSNorm

RMS_EPS = 1e-5
TRANSFORMER_VECTORS = 6
"""Shift, scale and gate of the attention, then of the MLP."""
MAMBA_VECTORS = 3
"""Shift, scale and gate."""


def gelu_mlp(width_in: int, hidden: int, width_out: int) -> nn.Sequential:
    """Linear, GELU (tanh approximation), Linear."""
    return nn.Sequential(Linear(width_in, hidden), nn.GELU(approximate="tanh"), Linear(hidden, width_out))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention (without norm and gate; only under a caption), MLP; (B, L, C) -> (B, L, C)."""

    def __init__(self, config: DimbaConfig):
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attention = SelfAttention(width, config.heads)
        self.cross_attention = CrossAttention(width, config.heads) if config.condition == "text" else None
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = gelu_mlp(width, round(width * config.mlp_ratio), width)

    def forward(
        self, x: Tensor, modulation: Tensor, text: Tensor | KeysValues | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """modulation: (B, 6, C); text: (B, T, C), or its keys and values; mask: (B, T) bool, False at padding."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unbind(1)
        x = residual(x, self.attention(modulate(self.norm1(x), shift1, scale1)), gate=gate1)
        if self.cross_attention is not None:
            assert text is not None
            x = x + self.cross_attention(x, text, mask)
        return residual(x, self.mlp(modulate(self.norm2(x), shift2, scale2)), gate=gate2)


class MambaBlock(nn.Module):
    """norm -> Bi-Mamba, with RMSNorm (official code) or a modulated LayerNorm and a gate (paper); (B, L, C) -> same.

    The caller adds the residual connection: the official code has one that differs from the paper's.
    """

    def __init__(self, config: DimbaConfig):
        super().__init__()
        if config.mamba_adaln:
            self.norm: nn.Module = nn.LayerNorm(config.width, eps=NORM_EPS, elementwise_affine=False)
        else:
            self.norm = RMSNorm(config.width, RMS_EPS)
        self.mixer = BiMamba(config.width, config.bi_mamba)

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """modulation: (B, 3, C), or None -> what is to be added to x."""
        if modulation is None:
            return self.mixer(self.norm(x))
        shift, scale, gate = modulation.unbind(1)
        return residual(None, self.mixer(modulate(self.norm(x), shift, scale)), gate=gate)


class Head(nn.Module):
    """(B, L, C) -> (B, L, values of a patch): modulated LayerNorm, Linear."""

    def __init__(self, width: int, values: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.table = nn.Parameter(torch.empty(2, width))
        self.linear = Linear(width, values)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """t: (B, C), the embedded timestep."""
        shift, scale = (self.table + t[:, None]).unbind(1)
        return self.linear(modulate(self.norm(x), shift, scale))
