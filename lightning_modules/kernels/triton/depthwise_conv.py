"""Short depthwise convolution with SiLU in Triton: lays out the launches.

Shapes: B batch, L positions, C channels, k taps.
"""

from typing import Any

import triton
from torch import Tensor

from lightning_modules.kernels.layout import packed_channels
from lightning_modules.kernels.triton import conv_kernels as kernels
from lightning_modules.kernels.triton.availability import FUSED, on_its_device

BLOCK = 64
"""Channels of a program's tile, 128 or 256 bytes in a row."""
POSITIONS, POSITIONS_BACKWARD = 32, 16
"""Of it; the backward holds more of each."""


@on_its_device
def forward(x: Tensor, weight: Tensor, bias: Tensor | None, pad_left: int, silu: bool) -> Tensor:
    """x: (B, L, C); weight (C, k), bias (C,) float32 -> (B, L, C) in x's dtype, computed in float32."""
    x, weight = packed_channels(x), weight.contiguous()
    y = x.new_empty(x.shape)
    kernels.conv_forward[_grid(x, POSITIONS)](
        *(x, weight, weight if bias is None else bias.contiguous(), y),
        *(*x.shape[1:], x.stride(0), x.stride(1)),
        **_options(weight, bias, pad_left, silu, POSITIONS),
    )
    return y


@on_its_device
def backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, grad_y: Tensor, pad_left: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight and bias. Deterministic: tiles leave sums of their own, added in a fixed order."""
    x, weight, grad_y = packed_channels(x), weight.contiguous(), packed_channels(grad_y)
    grid, (batch, length, channels), taps = _grid(x, POSITIONS_BACKWARD), x.shape, weight.shape[1]
    grad_x = x.new_empty(x.shape)
    grad_weight = weight.new_empty(batch * grid[1], taps, channels)
    grad_bias = None if bias is None else bias.new_empty(batch * grid[1], channels)
    kernels.conv_backward[grid](
        *(x, weight, weight if bias is None else bias.contiguous(), grad_y),
        *(grad_x, grad_weight, grad_weight if grad_bias is None else grad_bias),
        *(length, channels, x.stride(0), x.stride(1), grad_y.stride(0), grad_y.stride(1)),
        **_options(weight, bias, pad_left, silu, POSITIONS_BACKWARD),
    )
    return grad_x, grad_weight.sum(0).T.contiguous(), None if grad_bias is None else grad_bias.sum(0)


def _grid(x: Tensor, positions: int) -> tuple[int, int, int]:
    batch, length, channels = x.shape
    return triton.cdiv(channels, BLOCK), triton.cdiv(length, positions), batch


def _options(weight: Tensor, bias: Tensor | None, pad_left: int, silu: bool, positions: int) -> dict[str, Any]:
    """Compile-time constants that both kernels share."""
    return {
        "PAD_LEFT": pad_left,
        "TAPS": weight.shape[1],
        "BIAS": bias is not None,
        "SILU": silu,
        "POSITIONS": positions,
        "BLOCK": BLOCK,
        **FUSED,
    }
