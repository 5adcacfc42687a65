"""Single-step updates in C++: fill the argument structures of source/state_update.h and call.

Shapes: B batch, C channels, N states, k taps.
"""

import ctypes

import torch
from torch import Tensor

from lightning_modules.kernels.cpp import library

_KERNEL_SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class _ScanArguments(ctypes.Structure):
    """step::Arguments."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "channels", "states", "threads", "softplus")),
        *((name, ctypes.c_void_p) for name in ("state", "u", "delta", "A", "B", "C", "D", "z", "delta_bias", "y")),
    ]


class _ConvArguments(ctypes.Structure):
    """step::ConvArguments."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "channels", "taps", "silu")),
        *((name, ctypes.c_void_p) for name in ("window", "x", "weight", "bias", "y")),
    ]


def selective_state_update(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    """y (B, C) in u's dtype; `state`, contiguous float32, moves on."""
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    # In a tuple of their own, so that copies live until the call is over.
    tensors = (
        state,
        *(t if t is None else t.contiguous() for t in (u, delta, A, B.float(), C.float(), D, z, delta_bias)),
        y,
    )
    pointers = (None if t is None else t.data_ptr() for t in tensors)
    arguments = _ScanArguments(*u.shape, A.shape[1], torch.get_num_threads(), softplus, *pointers)
    getattr(library.load(), f"selective_state_update_{_KERNEL_SUFFIX[u.dtype]}")(ctypes.byref(arguments))
    return y


def depthwise_conv1d_update(window: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """y (B, C) in x's dtype; `window`, contiguous and of x's dtype, moves on."""
    y = torch.empty(x.shape, dtype=torch.float32)
    tensors = (window, x.contiguous(), weight.contiguous(), None if bias is None else bias.contiguous(), y)
    pointers = (None if t is None else t.data_ptr() for t in tensors)
    arguments = _ConvArguments(*x.shape, weight.shape[1], silu, *pointers)
    getattr(library.load(), f"depthwise_conv_update_{_KERNEL_SUFFIX[x.dtype]}")(ctypes.byref(arguments))
    return y.to(x.dtype)
