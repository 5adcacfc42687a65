"""The product that every layer is made of, by the library that is fastest on this processor."""

import math

import torch.nn.functional as F
from torch import Tensor

from lightning_modules import backends
from lightning_modules.kernels import dispatch, linear_op, onednn


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """x W^T + b over the last axis.

    x: (..., I), weight: (O, I), bias: (O,) -> (..., O), in x's dtype or what autocast asks for.
    backend: `onednn`, for float32 on a CPU; `torch` and `reference` are `torch.nn.functional.linear`.
    Raises what that raises on shapes and types that do not fit.
    """
    excluded = {} if weight.dtype == x.dtype else {"onednn": "its factors are of two types"}
    small = math.prod(x.shape) * len(weight) < onednn.SMALLEST
    behind = {"onednn": "torch"} if small or not onednn.gains() else {}
    dtype = dispatch.working_dtype(x.device.type, x.dtype)
    name = dispatch.choose(backends.LINEAR, backend, x.device, dtype, excluded, behind)
    if name == "onednn":
        return linear_op.linear(x, weight, bias)
    dispatch.record(backends.LINEAR, name)
    return F.linear(x, weight, bias)
