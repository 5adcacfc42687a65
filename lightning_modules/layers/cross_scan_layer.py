"""M-Mamba's layer: a cross-scan mixer and an MLP between aMUSEd's adaptive norms (slides 11 and 12).

Shapes: B batch, T words, L image positions, C width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.generators.configs.mmamba import MMambaConfig
from lightning_modules.layers.adaln import modulate
from lightning_modules.layers.block import MLP, NORM_EPS
from lightning_modules.layers.cross_attention import CrossAttention, KeysValues
from lightning_modules.layers.cross_scan import CrossScan
from lightning_modules.layers.linear import Linear
from lightning_modules.layers.residual import Residual, RMSNorm


class AdaptiveNorm(nn.Module):
    """norm(x) (1 + scale) + shift, both from a condition, as diffusers' `AdaLayerNormContinuous` without biases.

    Args:
        width: C.
        norm: the layer in front, with a weight per channel.
        adaptive: without it the condition is not looked at.
    """

    def __init__(self, width: int, norm: nn.LayerNorm | RMSNorm, adaptive: bool = True):
        super().__init__()
        self.linear = Linear(width, 2 * width, bias=False) if adaptive else None
        self.norm = norm

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: (B, S, C), condition: (B, C) -> (B, S, C)."""
        x = x.to(self.norm.weight.dtype)  # in float32 also under autocast
        if self.linear is None:
            return self.norm(x)
        scale, shift = self.linear(F.silu(condition)).to(x.dtype).chunk(2, dim=-1)
        return self.norm(x, shift, scale) if isinstance(self.norm, RMSNorm) else modulate(self.norm(x), shift, scale)


class CrossScanLayer(nn.Module):
    """(words, image) -> (words, image): mixer, cross-attention where asked for, MLP, each behind a norm, residual.

    Args:
        config: of the generator.
        read: a layer behind this one reads the words.
    """

    def __init__(self, config: MMambaConfig, read: bool):
        super().__init__()
        width, side = config.width, config.stack_grid
        in_scan = config.cross_scan.text != "none"
        self.updates_text = read and in_scan and config.text_update
        self.text_mlp = self.updates_text and config.text_mlp
        self.norm = AdaptiveNorm(width, RMSNorm(width, NORM_EPS), config.adaln)
        self.mixer = CrossScan(width, config.cross_scan, (side, side), config.text_tokens, self.updates_text)
        self.attention_norm = self.attention = None
        if config.cross_attention:
            self.attention_norm = AdaptiveNorm(width, RMSNorm(width, NORM_EPS), config.adaln)
            self.attention = CrossAttention(width, config.heads, bias=False)
        self.mlp_norm = AdaptiveNorm(width, nn.LayerNorm(width, NORM_EPS, bias=False), config.adaln)
        self.mlp = MLP(width, config.mlp_ratio)
        self.residual = Residual(config.dropout)

    def forward(
        self, text: Tensor, image: Tensor, pooled: Tensor, mask: Tensor | None, projected: KeysValues | None = None
    ) -> tuple[Tensor, Tensor]:
        """text: (B, T, C), image: (B, L, C), pooled: (B, C), mask: (B, T) bool, False at padding, or None; projected:
        the attention's keys and values of the text, None = computed here."""
        words, count = text if projected is None else projected, text.shape[1]
        joined = self.norm(torch.cat([text, image], dim=1), pooled)
        text_out, image_out = self.mixer(joined[:, :count], joined[:, count:], pooled, mask)
        image = self.residual(image, image_out)
        if self.updates_text:
            text = self.residual(text, text_out)
        if self.attention is not None and self.attention_norm is not None:
            image = self.residual(image, self.attention(self.attention_norm(image, pooled), words, mask))
        if not self.text_mlp:
            return text, self.residual(image, self.mlp(self.mlp_norm(image, pooled)))
        joined = torch.cat([text, image], dim=1)
        joined = self.residual(joined, self.mlp(self.mlp_norm(joined, pooled)))
        return joined[:, :count], joined[:, count:]
