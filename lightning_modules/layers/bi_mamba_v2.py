"""Bi-Mamba-V2: MaskMamba's mixer (arXiv 2409.19937, Eq. 1).

x = SiLU(Conv(Linear(C, C/2)(X)))        x^ = SSM_forward(x) + SSM_backward(x)
z = SiLU(Conv(Linear(C, C/2)(X)))        out = Linear(C, C)(Concat(x^, z))
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.layers.config import BiMambaV2Config
from lightning_modules.layers.conv import ShortConv
from lightning_modules.layers.linear import Linear
from lightning_modules.layers.ssm import SCANS, Scan, SelectiveSSM, without_padding


class BiMambaV2(nn.Module):
    """(B, L, C) -> (B, L, C).

    Args:
        width: C.
        config: see `BiMambaV2Config`; its defaults are Eq. 1.
        scan: both directions (Eq. 1), or one of them as in the groups of hybrid scheme group_v2.
    """

    def __init__(self, width: int, config: BiMambaV2Config, scan: Scan = "bidirectional"):
        super().__init__()
        inner = round(width * config.branch_ratio)
        padding: Literal["same", "causal"] = "same" if config.conv == "standard" else "causal"
        self.merge = config.merge
        self.in_proj = Linear(width, 2 * inner, bias=False)  # x and z in one product
        self.conv_x = ShortConv(inner, config.d_conv, padding) if config.conv != "none" else None
        self.conv_z = ShortConv(inner, config.d_conv, padding) if config.conv != "none" and config.z_conv else None
        self.ssm = SelectiveSSM(
            inner,
            config.d_state,
            SCANS[scan],
            model_width=width,
            share_projections=config.share_ssm,
            share_decay=config.share_ssm,
        )
        self.scale = 0.5 if config.divide_out and scan == "bidirectional" else 1.0
        self.out_proj = Linear(2 * inner if config.merge == "concat" else inner, width, bias=False)

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """key_mask: (B, L) bool, False at padding, which then changes nothing elsewhere."""
        x, z = self.in_proj(without_padding(x, key_mask)).chunk(2, dim=-1)
        x = F.silu(x) if self.conv_x is None else self.conv_x(x)
        z = F.silu(z) if self.conv_z is None else self.conv_z(z)
        y = self.ssm(x, skip=None if key_mask is None else ~key_mask) * self.scale
        return self.out_proj(torch.cat([y, z], dim=-1) if self.merge == "concat" else y * z)
