"""Depthwise convolution as its definition: a sum of shifted copies, differentiated by autograd.

Shapes: B batch, L positions, C channels, k taps.
"""

import torch.nn.functional as F
from torch import Tensor


def depthwise_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, pad_left: int, silu: bool) -> Tensor:
    """y[l] = bias + sum_j weight[:, j] x[l - pad_left + j], zeros outside, then SiLU.

    x: (B, L, C), weight: (C, k), bias: (C,) -> (B, L, C), in the wider precision of x and weight.
    """
    length, taps = x.shape[1], weight.shape[1]
    padded = F.pad(x, (0, 0, pad_left, taps - 1 - pad_left))
    y = padded.new_zeros(()) if bias is None else bias
    for tap in range(taps):
        y = y + padded[:, tap : tap + length] * weight[:, tap]
    return F.silu(y) if silu else y
