"""Depthwise convolution in C++.

Shapes: B batch, L positions, C channels, k taps.
"""

import torch
from torch import Tensor

from lightning_modules.kernels.cpp import library
from lightning_modules.kernels.layout import empty_like, packed_channels

MAX_TAPS = 9
"""kMaxTaps of source/depthwise_conv.cpp."""
_OUT_OF_MEMORY = 2  # kOutOfMemory of source/parallel.h


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, pad_left: int, silu: bool) -> Tensor:
    """x: (B, L, C) float32 or bfloat16; weight (C, k), bias (C,) float32 -> (B, L, C)."""
    y = empty_like(x)
    _call("forward", x, weight, bias, pad_left, silu, y=y)
    return y


def backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, grad_y: Tensor, pad_left: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight and bias; bitwise the same for any number of threads."""
    grads = (empty_like(x), empty_like(weight), None if bias is None else empty_like(bias))
    _call("backward", x, weight, bias, pad_left, silu, grad_y=packed_channels(grad_y), grads=grads)
    return grads


def _call(
    kernel: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pad_left: int,
    silu: bool,
    *,
    y: Tensor | None = None,
    grad_y: Tensor | None = None,
    grads: tuple[Tensor | None, ...] = (None, None, None),
) -> None:
    """Fills conv::Arguments of source/depthwise_conv.cpp, field by field."""
    x, weight, bias = packed_channels(x), weight.contiguous(), None if bias is None else bias.contiguous()
    sizes = (*x.shape, weight.shape[1], pad_left, silu, torch.get_num_threads())
    strides = (*x.stride()[:2], *((0, 0) if grad_y is None else grad_y.stride()[:2]))
    pointers = map(library.address, (x, weight, bias, y, grad_y, *grads))
    status = library.call(f"depthwise_conv_{kernel}", x.dtype, (*sizes, *strides, *pointers))
    if status == _OUT_OF_MEMORY:
        raise MemoryError("The C++ convolution could not allocate its work space.")
    if status:
        raise RuntimeError(f"The C++ convolution cannot take {weight.shape[1]} taps (status {status}).")
