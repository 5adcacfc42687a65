"""The product of oneDNN as an operator of torch.library; see scan_op. PyTorch's own needs none.

Its gradients are such products themselves, so it can be differentiated any number of times.
"""

import math

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from lightning_modules import backends
from lightning_modules.kernels import dispatch, onednn, operators


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    dispatch.record(backends.LINEAR, "onednn")
    return onednn.linear(x, weight, bias)


def _save(ctx, inputs, output) -> None:
    x, weight, bias = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _differentiate(ctx, grad_y):
    x, weight = ctx.saved_tensors
    _, for_x, for_weight, for_bias = ctx.needs_input_grad  # the first is the operator's key set
    grad_x = linear(grad_y, weight.t(), None) if for_x else None
    grad, rows = grad_y.reshape(-1, grad_y.shape[-1]), x.reshape(-1, x.shape[-1])
    grad_weight = _outer_products(grad, rows) if for_weight else None
    return grad_x, grad_weight, grad.sum(0) if ctx.has_bias and for_bias else None


def _outer_products(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x of (M, O) and (M, I). oneDNN copies the factor that it finds transposed: the smaller one, then."""
    if grad.shape[1] <= x.shape[1]:
        return linear(grad.t(), x.t(), None)
    return linear(x.t(), grad.t(), None).t()


linear = operators.define(
    "linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    _forward,
    lambda x, weight, bias: x.new_empty((*x.shape[:-1], weight.shape[0])),
    _differentiate,
    _save,
)


@register_flop_formula(torch.ops.ablate.linear)
def _flops(x, weight, bias, out_shape=None, **_) -> int:
    """As PyTorch counts its own: a multiplication and an addition per weight and row, none for the bias."""
    return 2 * math.prod(x) * weight[0]
