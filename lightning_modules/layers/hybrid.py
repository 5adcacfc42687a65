"""Hybrid schemes: how Mamba (M) and Transformer (S) layers are arranged (MaskMamba section 3.2.2, Figure 4).

uniform    M M M M ...            serial_v1  M S M S ...          serial_v2  M M .. S S ..
group_v1   M on C/2 | S on C/2    group_v2   M forward, M backward, S, S on C/4 each
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.generators.configs.maskmamba import MaskMambaConfig
from lightning_modules.layers.attention import SelfAttention
from lightning_modules.layers.block import NORM_EPS, Block
from lightning_modules.layers.config import MIXERS
from lightning_modules.layers.linear import Linear
from lightning_modules.layers.ssm import Scan


class GroupBlock(nn.Module):
    """x + Linear(LayerNorm(Concat(branch_i(x_i)))) over equal slices x_i of the channels."""

    def __init__(self, width: int, branches: Sequence[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.project = Linear(width, width)

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """(B, L, C) -> (B, L, C); key_mask: (B, L) bool, False at padding."""
        parts = x.chunk(len(self.branches), dim=-1)
        h = torch.cat([branch(part, key_mask) for branch, part in zip(self.branches, parts, strict=True)], dim=-1)
        return x + self.project(self.norm(h))


def build_layers(config: MaskMambaConfig) -> nn.ModuleList:
    """The stack of layers that a configuration describes."""
    if config.hybrid_scheme.startswith("group") and config.group_match == "parameters":
        depth = matched_depth(config)
    else:
        depth = config.depth
    make = _layer_maker(config)
    return nn.ModuleList(make(i, depth) for i in range(depth))


def matched_depth(config: MaskMambaConfig) -> int:
    """Layers of a group scheme whose parameters come closest to those of `depth` layers in series."""
    with torch.device("meta"):
        series = sum(_size(layer) for layer in (_mixer(config, config.width), _attention(config, config.width)))
        group = _size(_layer_maker(config)(0, config.depth))
    return max(1, round(config.depth * series / 2 / group))


def _layer_maker(config: MaskMambaConfig) -> Callable[[int, int], nn.Module]:
    """layer index, depth -> layer."""
    c = config.width
    match config.hybrid_scheme:
        case "uniform":
            return lambda i, depth: _mixer(config, c)
        case "serial_v1":
            return lambda i, depth: _attention(config, c) if i % 2 else _mixer(config, c)
        case "serial_v2":
            return lambda i, depth: _mixer(config, c) if i < depth // 2 else _attention(config, c)
        case "group_v1":
            return lambda i, depth: GroupBlock(c, [_mixer(config, c // 2), _attention(config, c // 2)])
        case "group_v2":
            return lambda i, depth: GroupBlock(
                c,
                [
                    _mixer(config, c // 4, "forward"),
                    _mixer(config, c // 4, "reverse"),
                    _attention(config, c // 4),
                    _attention(config, c // 4),
                ],
            )
        case _:  # a name in the configuration alone
            raise ValueError(
                f"generator.hybrid_scheme={config.hybrid_scheme} has no layers; give it a case in _layer_maker of "
                "lightning_modules/layers/hybrid.py (docs/extending.md), or take another scheme."
            )


def _mixer(config: MaskMambaConfig, width: int, scan: Scan = "bidirectional") -> Block:
    """A layer around the configured mixer, whichever it is."""
    if config.mixer == "attention":
        return _attention(config, width)
    mixer = MIXERS.target(config.mixer)(width, getattr(config, config.mixer), scan)
    return Block(width, mixer, config.mamba_mlp_ratio, config.dropout, config.mask_padding)


def _attention(config: MaskMambaConfig, width: int) -> Block:
    return Block(width, SelfAttention(width, config.heads), config.attention_mlp_ratio, config.dropout)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
