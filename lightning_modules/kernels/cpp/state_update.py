"""Single-step updates in C++: fill the argument structures of source/state_update.h, field by field, and call.

Shapes: B batch, C channels, N states, k taps.
"""

import torch
from torch import Tensor

from lightning_modules.kernels.cpp import library


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
    sizes = (*u.shape, A.shape[1], torch.get_num_threads(), softplus)
    library.call("selective_state_update", u.dtype, (*sizes, *map(library.address, tensors)))
    return y


def depthwise_conv1d_update(window: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """y (B, C) in x's dtype; `window`, contiguous and of x's dtype, moves on."""
    y = torch.empty(x.shape, dtype=torch.float32)
    tensors = (window, x.contiguous(), weight.contiguous(), None if bias is None else bias.contiguous(), y)
    sizes = (*x.shape, weight.shape[1], silu)
    library.call("depthwise_conv_update", x.dtype, (*sizes, *map(library.address, tensors)))
    return y.to(x.dtype)
