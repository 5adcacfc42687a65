"""Norms, residual branches and SwiGLU's activation as operators of torch.library, for the C++ back end; see scan_op.

PyTorch's own functions need no operator. No FLOPs are counted, as PyTorch counts none for its own.
"""

import torch
from torch import Tensor

from lightning_modules import backends
from lightning_modules.kernels import dispatch, operators
from lightning_modules.kernels.cpp import rows as cpp

# --- norm ---


def _norm(x, factor, gate, shift, eps) -> tuple[Tensor, Tensor]:
    dispatch.record(backends.RMS_NORM, "cpp")
    return cpp.rms_norm(x, factor, gate, shift, eps)


def _norm_fake(x, factor, gate, shift, eps) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:2], dtype=torch.float32)


def _norm_backward(x, *others) -> tuple[Tensor, ...]:
    """Gradients of x, factor, gate and shift; an empty tensor where there is none."""
    return tuple(x.new_empty(0) if grad is None else grad for grad in cpp.rms_norm_backward(x, *others))


def _norm_backward_fake(x, factor, gate, rstd, grad_y, shifted) -> tuple[Tensor, ...]:
    def like(tensor: Tensor | None) -> Tensor:
        return x.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)

    grad_shift = rstd.new_empty((x.shape[0], x.shape[2])) if shifted else x.new_empty(0)
    return x.new_empty(x.shape), like(factor), like(gate), grad_shift


def _norm_save(ctx, inputs, output) -> None:
    x, factor, gate, shift, _ = inputs
    ctx.save_for_backward(x, factor, gate, output[1])
    ctx.shifted = shift is not None
    ctx.mark_non_differentiable(output[1])


def _norm_differentiate(ctx, grad_y, _):
    x, factor, gate, rstd = ctx.saved_tensors
    grad_x, *grads = rms_norm_backward(x, factor, gate, rstd, grad_y, ctx.shifted)
    there = (factor is not None, gate is not None, ctx.shifted)
    return grad_x, *(grad if given else None for grad, given in zip(grads, there, strict=True)), None


rms_norm = operators.define(
    "rms_norm(Tensor x, Tensor? factor, Tensor? gate, Tensor? shift, float eps) -> (Tensor y, Tensor rstd)",
    _norm,
    _norm_fake,
    _norm_differentiate,
    _norm_save,
)
rms_norm_backward = operators.define(
    "rms_norm_backward(Tensor x, Tensor? factor, Tensor? gate, Tensor rstd, Tensor grad_y, bool shifted)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _norm_backward,
    _norm_backward_fake,
)


# --- end of a residual branch ---


def _residual(x, h, gate, seed, dropout) -> Tensor:
    dispatch.record(backends.RESIDUAL, "cpp")
    return cpp.residual(x, h, gate, _number(seed), dropout)


def _residual_fake(x, h, gate, seed, dropout) -> Tensor:
    return h.new_empty(h.shape, dtype=h.dtype if x is None else x.dtype)


def _residual_backward(h, gate, seed, dropout, grad_y, dtype) -> tuple[Tensor, Tensor]:
    """Gradients of h and the gate, empty where there is none."""
    grad_h, grad_gate = cpp.residual_backward(h, gate, _number(seed), dropout, grad_y, dtype)
    return grad_h, grad_y.new_empty(0) if grad_gate is None else grad_gate


def _residual_backward_fake(h, gate, seed, dropout, grad_y, dtype) -> tuple[Tensor, Tensor]:
    return grad_y.new_empty(grad_y.shape, dtype=dtype), grad_y.new_empty(0 if gate is None else gate.shape)


def _residual_save(ctx, inputs, output) -> None:
    x, h, gate, seed, ctx.dropout = inputs
    ctx.save_for_backward(h if gate is not None else None, gate, seed)
    ctx.added, ctx.dtype = x is not None, h.dtype


def _residual_differentiate(ctx, grad_y):
    h, gate, seed = ctx.saved_tensors
    grad_h, grad_gate = residual_backward(h, gate, seed, ctx.dropout, grad_y, ctx.dtype)
    return grad_y if ctx.added else None, grad_h, None if gate is None else grad_gate, None, None


def _number(seed: Tensor | None) -> int:
    return 0 if seed is None else int(seed)


residual = operators.define(
    "residual(Tensor? x, Tensor h, Tensor? gate, Tensor? seed, float dropout) -> Tensor",
    _residual,
    _residual_fake,
    _residual_differentiate,
    _residual_save,
)
residual_backward = operators.define(
    "residual_backward(Tensor? h, Tensor? gate, Tensor? seed, float dropout, Tensor grad_y, ScalarType dtype)"
    " -> (Tensor, Tensor)",
    _residual_backward,
    _residual_backward_fake,
)


# --- SwiGLU ---


def _swiglu(gate_up) -> Tensor:
    dispatch.record(backends.SWIGLU, "cpp")
    return cpp.swiglu(gate_up)


def _swiglu_fake(gate_up) -> Tensor:
    return gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))


def _swiglu_save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _swiglu_differentiate(ctx, grad_y):
    return (swiglu_backward(*ctx.saved_tensors, grad_y),)


swiglu = operators.define(
    "swiglu(Tensor gate_up) -> Tensor", _swiglu, _swiglu_fake, _swiglu_differentiate, _swiglu_save
)
swiglu_backward = operators.define(
    "swiglu_backward(Tensor gate_up, Tensor grad_y) -> Tensor",
    cpp.swiglu_backward,
    lambda gate_up, grad_y: gate_up.new_empty(gate_up.shape),
)
