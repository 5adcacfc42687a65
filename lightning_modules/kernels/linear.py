"""The linear map x W^T + b, by the library that is fastest for it on this processor."""

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
    small = math.prod(x.shape) * len(weight) < onednn.SMALLEST
    no_gain = x.device.type == "cpu" and (small or not onednn.gains())
    behind = {"onednn": "torch"} if no_gain else {}
    dtype = dispatch.working_dtype(x.device.type, x.dtype)
    name = dispatch.choose(backends.LINEAR, backend, x.device, dtype, behind=behind)
    if name == "onednn":
        if _fits(x, weight, bias):
            return linear_op.linear(x, weight, bias)
        name = "torch"
    if not small:  # PyTorch runs small products everywhere, so recording it would tell nothing about a run
        dispatch.record(backends.LINEAR, name)
    return F.linear(x, weight, bias)


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN can take them. It checks little itself: what does not fit is PyTorch's, whose errors say why."""
    outputs, inputs = weight.shape[0], weight.shape[1:]
    alike = x.dtype == weight.dtype and x.shape[-1:] == inputs and x.numel() > 0
    return alike and (bias is None or (bias.dtype == x.dtype and bias.shape == (outputs,)))
