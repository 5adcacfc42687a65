"""Depthwise convolution as an operator of torch.library; see scan_op."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from lightning_modules import backends
from lightning_modules.kernels import dispatch, flops, operators
from lightning_modules.kernels.implementation import implementation
from lightning_modules.precision import without_autocast


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, pad_left: int, silu: bool, backend: str) -> Tensor:
    dispatch.record(backends.DEPTHWISE_CONV1D, backend)
    with without_autocast(x.device.type):
        return implementation(backend, "depthwise_conv").forward(x, weight, bias, pad_left, silu)


def _backward(x, weight, bias, grad_y, pad_left, silu, backend) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor where bias is None."""
    module = implementation(backend, "depthwise_conv")
    with without_autocast(x.device.type):
        grad_x, grad_weight, grad_bias = module.backward(x, weight, bias, grad_y, pad_left, silu)
    return grad_x, grad_weight, weight.new_empty(0) if grad_bias is None else grad_bias


def _backward_fake(x, weight, bias, grad_y, pad_left, silu, backend) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(0 if bias is None else bias.shape)


def _save(ctx, inputs, output) -> None:
    x, weight, bias, *ctx.options = inputs
    ctx.save_for_backward(x, weight, bias)


def _differentiate(ctx, grad_y):
    x, weight, bias = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = depthwise_conv1d_backward(x, weight, bias, grad_y, *ctx.options)
    return grad_x, grad_weight, None if bias is None else grad_bias, None, None, None


depthwise_conv1d = operators.define(
    "depthwise_conv1d(Tensor x, Tensor weight, Tensor? bias, int pad_left, bool silu, str backend) -> Tensor",
    _forward,
    lambda x, *_: x.new_empty(x.shape),
    _differentiate,
    _save,
)
depthwise_conv1d_backward = operators.define(
    "depthwise_conv1d_backward(Tensor x, Tensor weight, Tensor? bias, Tensor grad_y, int pad_left, bool silu,"
    " str backend) -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)


@register_flop_formula(torch.ops.ablate.depthwise_conv1d)
def _forward_flops(x, weight, bias, pad_left, silu, backend, out_shape=None, **_) -> int:
    batch, length, channels = x
    return flops.depthwise_conv1d(batch, length, channels, weight[1], silu=silu)


@register_flop_formula(torch.ops.ablate.depthwise_conv1d_backward)
def _backward_flops(x, weight, bias, grad_y, pad_left, silu, backend, out_shape=None, **_) -> int:
    batch, length, channels = x
    return flops.BACKWARD_FACTOR * flops.depthwise_conv1d(batch, length, channels, weight[1], silu=silu)
