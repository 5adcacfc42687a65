"""Bi-Mamba: Vision Mamba's bidirectional mixer (arXiv 2401.09417, Algorithm 1), equal to the official code's v1 and v2.

v1: both directions share everything but A; the convolution runs once, causally, before the backward scan.
v2: each direction has its own convolution (anticausal for the backward one), projections, A and D.
The gate silu(z) multiplies each direction before the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_modules.layers.config import BiMambaConfig
from lightning_modules.layers.conv import ShortConv
from lightning_modules.layers.linear import Linear
from lightning_modules.layers.ssm import SCANS, Scan, SelectiveSSM, without_padding


class BiMamba(nn.Module):
    """(B, L, C) -> (B, L, C).

    Args:
        width: C.
        config: see `BiMambaConfig`.
        scan: both directions, or one of them as in the groups of hybrid scheme group_v2.
    """

    def __init__(self, width: int, config: BiMambaConfig, scan: Scan = "bidirectional"):
        super().__init__()
        inner = round(width * config.expand)
        both = scan == "bidirectional"
        shared = config.weight_sharing == "v1"
        self.in_proj = Linear(width, 2 * inner, bias=False)
        self.conv = ShortConv(inner, config.d_conv, "anticausal" if scan == "reverse" and not shared else "causal")
        self.conv_reverse = ShortConv(inner, config.d_conv, "anticausal") if both and not shared else None
        self.ssm = SelectiveSSM(inner, config.d_state, SCANS[scan], model_width=width, share_projections=shared)
        self.out_proj = Linear(inner, width, bias=False)
        self.scale = 0.5 if config.divide_out and both else 1.0

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """key_mask: (B, L) bool, False at padding, which then changes nothing elsewhere."""
        x, z = self.in_proj(without_padding(x, key_mask)).chunk(2, dim=-1)
        u = self.conv(x) if self.conv_reverse is None else torch.stack([self.conv(x), self.conv_reverse(x)], dim=1)
        skip = None if key_mask is None else ~key_mask
        return self.out_proj(self.ssm(u, z, skip=skip) * self.scale)

    def from_vim(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state in the layout of the official Vim checkpoints (`x_proj.weight`, `A_b_log`, ...), in this layout.

        Raises:
            KeyError: one that is missing.
        """
        sides = [""] if self.conv_reverse is None else ["", "_b"]

        def both(name: str, plain: str) -> Tensor:
            return torch.stack([state[plain.format(side)] for side in sides])

        own = {
            "in_proj.weight": state["in_proj.weight"],
            "out_proj.weight": state["out_proj.weight"],
            "conv.weight": state["conv1d.weight"][:, 0],
            "conv.bias": state["conv1d.bias"],
            "ssm.x_proj": both("x_proj", "x_proj{}.weight"),
            "ssm.dt_proj": both("dt_proj", "dt_proj{}.weight"),
            "ssm.dt_bias": both("dt_bias", "dt_proj{}.bias"),
            "ssm.A_log": torch.stack([state["A_log"], state["A_b_log"]]),
            "ssm.D": both("D", "D{}"),
        }
        if self.conv_reverse is not None:  # the official code flips the sequence, so the kernel as well
            own["conv_reverse.weight"] = state["conv1d_b.weight"][:, 0].flip(-1)
            own["conv_reverse.bias"] = state["conv1d_b.bias"]
        return own
