"""Causal depthwise convolution by causal-conv1d's CUDA kernel.

Shapes: B batch, L positions, C channels, k taps.
"""

import torch
from torch import Tensor

TAPS = (2, 3, 4)
"""Kernel lengths that the package has."""


def unfit(channels: int, taps: int, pad_left: int) -> str | None:
    """Why the package cannot run such a convolution; None where it can."""
    if taps not in TAPS:
        return f"it takes {TAPS[0]} to {TAPS[-1]} taps, not {taps}"
    if channels % 8:
        return f"it takes multiples of 8 channels in channel-last memory, not {channels}"
    return None if pad_left == taps - 1 else "it runs causal convolutions only"


@torch.compiler.disable  # the package's autograd function cannot be traced
def depthwise_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """x: (B, L, C), weight: (C, k), bias: (C,) -> (B, L, C). The kernel reads channel-last memory through a view."""
    from causal_conv1d import causal_conv1d_fn

    # A single position counts as contiguous whatever lies between rows, and the kernel looks at that too.
    x = x.contiguous() if x.shape[1] > 1 else x.clone(memory_format=torch.contiguous_format)
    return causal_conv1d_fn(x.mT, weight, bias, activation="silu" if silu else None).mT
