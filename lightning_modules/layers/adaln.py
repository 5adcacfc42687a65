"""Adaptive layer norm: shifts, scales and gates of a stack of layers, computed from one conditioning vector.

adaLN (DiT, arXiv 2212.09748) gives every layer its own projection, adaLN-single (PixArt-alpha, arXiv 2310.00426)
shares one among all and adds a table per layer, adaLN-group (AiM, arXiv 2408.12245, section 3.3) shares G of them.

Shapes: B batch, C width, N layers, G groups, M modulation vectors per layer.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.layers.linear import Linear


class AdaLN(nn.Module):
    """condition (B, C) -> modulation (N, B, M, C): Linear_g(i)(silu(condition)), plus a table for layer i.

    Args:
        width: C.
        depth: N.
        groups: G <= N projections; 1 is adaLN-single, `depth` one for every layer.
        vectors: M, for instance 3: shift, scale, gate.
        tables: add a learned (M, C) table per layer, without which the layers of a group would be modulated alike.
        layout: layer i belongs to group i mod G (interleaved), or to group floor(i G / N) (contiguous).
        init: zero everywhere, so that scales are 1 and gates closed; or `random`, default Linear weights and
            normal(0, 1 / sqrt(C)) tables.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        groups: int,
        *,
        vectors: int,
        tables: bool,
        layout: Literal["interleaved", "contiguous"] = "interleaved",
        init: Literal["zero", "random"] = "zero",
    ):
        super().__init__()
        self.vectors = vectors
        self.init = init
        self.group_of_layer = tuple(
            i % groups if layout == "interleaved" else i * groups // depth for i in range(depth)
        )
        self.project = Linear(width, groups * vectors * width)
        self.table = nn.Parameter(torch.empty(depth, vectors, width)) if tables else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Zero, or the published random start; see `init`."""
        nn.init.zeros_(self.project.bias)
        if self.init == "zero":
            nn.init.zeros_(self.project.weight)
        else:
            nn.init.uniform_(self.project.weight, -(self.project.in_features**-0.5), self.project.in_features**-0.5)
        if self.table is not None:
            nn.init.normal_(self.table, std=0.0 if self.init == "zero" else self.table.shape[-1] ** -0.5)

    def forward(self, condition: Tensor) -> Tensor:
        """condition: (B, C) -> (N, B, M, C), every layer's vectors in the order the caller gave them meaning."""
        shared = self.project(F.silu(condition)).unflatten(-1, (-1, self.vectors, condition.shape[-1]))  # (B, G, M, C)
        layers = torch.stack([shared[:, group] for group in self.group_of_layer])
        return layers if self.table is None else layers + self.table[:, None]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift; x: (B, L, C), shift and scale: (B, C)."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])
