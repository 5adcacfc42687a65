"""The mixers' short depthwise convolution with SiLU: symmetric, causal or anticausal."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_modules.kernels import depthwise_conv1d


class ShortConv(nn.Module):
    """silu(conv(x)) per channel.

    Args:
        channels: C.
        kernel_size: k, odd for padding "same".
        padding: "same" reads (k - 1) / 2 positions on either side, "causal" k - 1 before, "anticausal" k - 1 after.
    """

    def __init__(self, channels: int, kernel_size: int, padding: Literal["same", "causal", "anticausal"]):
        super().__init__()
        self.padding = padding
        self.weight = nn.Parameter(torch.empty(channels, kernel_size))
        self.bias = nn.Parameter(torch.empty(channels))
        bound = kernel_size**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        return depthwise_conv1d(x, self.weight, self.bias, padding=self.padding, activation="silu")
