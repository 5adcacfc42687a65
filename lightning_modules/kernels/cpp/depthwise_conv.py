"""Depthwise convolution in C++: fills the argument structure of source/depthwise_conv.cpp and calls it.

Shapes: B batch, L positions, C channels, k taps.
"""

import ctypes

import torch
from torch import Tensor

from lightning_modules.kernels.cpp import library
from lightning_modules.kernels.layout import packed_channels

_KERNEL_SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
MAX_TAPS = 9
"""kMaxTaps of source/depthwise_conv.cpp."""
_OUT_OF_MEMORY = 2  # kOutOfMemory of source/parallel.h


class _Arguments(ctypes.Structure):
    """conv::Arguments of source/depthwise_conv.cpp, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "length", "channels", "taps", "pad_left", "silu", "threads")),
        *((name, ctypes.c_int64) for name in ("x_batch_stride", "x_position_stride")),
        *((name, ctypes.c_int64) for name in ("grad_y_batch_stride", "grad_y_position_stride")),
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "y", "grad_y", "grad_x")),
        *((name, ctypes.c_void_p) for name in ("grad_weight", "grad_bias")),
    ]


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, pad_left: int, silu: bool) -> Tensor:
    """x: (B, L, C) float32 or bfloat16; weight (C, k), bias (C,) float32 -> (B, L, C)."""
    y = x.new_empty(x.shape)
    _call("forward", x, weight, bias, pad_left, silu, y=y)
    return y


def backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, grad_y: Tensor, pad_left: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight and bias; bitwise the same for any number of threads."""
    grad_x = x.new_empty(x.shape)
    grad_weight = weight.new_empty(weight.shape)
    grad_bias = None if bias is None else bias.new_empty(bias.shape)
    _call(
        "backward",
        x,
        weight,
        bias,
        pad_left,
        silu,
        grad_y=grad_y,
        grad_x=grad_x,
        grad_weight=grad_weight,
        grad_bias=grad_bias,
    )
    return grad_x, grad_weight, grad_bias


def _call(
    kernel: str, x: Tensor, weight: Tensor, bias: Tensor | None, pad_left: int, silu: bool, **others: Tensor | None
) -> None:
    x, weight = packed_channels(x), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    grad_y = others.get("grad_y")
    if grad_y is not None:
        grad_y = others["grad_y"] = packed_channels(grad_y)
    strides = (0, 0) if grad_y is None else grad_y.stride()[:2]
    arguments = _Arguments(
        *x.shape, weight.shape[1], pad_left, silu, torch.get_num_threads(), *x.stride()[:2], *strides
    )
    for name, tensor in {"x": x, "weight": weight, "bias": bias, **others}.items():
        if tensor is not None:
            setattr(arguments, name, tensor.data_ptr())
    status = getattr(library.load(), f"depthwise_conv_{kernel}_{_KERNEL_SUFFIX[x.dtype]}")(ctypes.byref(arguments))
    if status == _OUT_OF_MEMORY:
        raise MemoryError("The C++ convolution could not allocate its work space.")
    if status:
        raise RuntimeError(f"The C++ convolution cannot take {weight.shape[1]} taps (status {status}).")
