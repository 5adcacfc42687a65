"""Depthwise convolution in plain PyTorch: shifted multiply-adds on the channel-last tensor, hand-written backward.

On a CPU torch's own grouped conv1d wants channels first and is several times slower than this.

Shapes: B batch, L positions, C channels, k taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, pad_left: int, silu: bool) -> Tensor:
    """x: (B, L, C), weight: (C, k), bias: (C,) -> (B, L, C), computed in weight's precision."""
    y = _convolve(x.to(weight.dtype), weight, bias, pad_left)
    return (F.silu(y) if silu else y).to(x.dtype)


def backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, grad_y: Tensor, pad_left: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight and bias."""
    wide, grad, taps = x.to(weight.dtype), grad_y.to(weight.dtype), weight.shape[1]
    if silu:
        y = _convolve(wide, weight, bias, pad_left)
        slope = torch.sigmoid(y)
        grad = grad * slope * (1 + y * (1 - slope))
    grad_x = _convolve(grad, weight.flip(1), None, taps - 1 - pad_left)
    padded = F.pad(wide, (0, 0, pad_left, taps - 1 - pad_left))
    grad_weight = torch.stack([(padded[:, tap : tap + x.shape[1]] * grad).sum((0, 1)) for tap in range(taps)], 1)
    return grad_x.to(x.dtype), grad_weight, None if bias is None else grad.sum((0, 1))


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, pad_left: int) -> Tensor:
    length, taps = x.shape[1], weight.shape[1]
    padded = F.pad(x, (0, 0, pad_left, taps - 1 - pad_left))
    y = padded[:, :length] * weight[:, 0]
    if bias is not None:
        y += bias
    for tap in range(1, taps):
        y.addcmul_(padded[:, tap : tap + length], weight[:, tap])
    return y
