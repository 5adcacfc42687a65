"""State space duality as an operator of torch.library; see scan_op.

Shapes: B batch, L positions, H heads, P channels of a head, N states.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from lightning_modules import backends
from lightning_modules.kernels import dispatch, flops, operators
from lightning_modules.kernels.implementation import implementation
from lightning_modules.kernels.pytorch.ssd import CHUNK
from lightning_modules.kernels.ssd_inputs import Saved, SSDInputs
from lightning_modules.precision import without_autocast

_INPUTS = "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? initial_state"
_INPUT_COUNT = 7


def _backend(name: str) -> ModuleType:
    return implementation(name, "ssd")


def _forward(x, dt, A, B, C, D, initial_state, training, want_state, backend) -> tuple[Tensor, ...]:
    dispatch.record(backends.SSD, backend)
    inputs = SSDInputs(x, dt, A, B, C, D, initial_state)
    with without_autocast(x.device.type):
        y, state, saved = _backend(backend).forward(inputs, training=training, want_state=want_state)
    return y, state, *saved


def _forward_fake(x, dt, A, B, C, D, initial_state, training, want_state, backend) -> tuple[Tensor, ...]:
    state = x.new_empty((x.shape[0], *x.shape[2:], B.shape[2]) if want_state else 0)
    inputs = SSDInputs(x, dt, A, B, C, D, initial_state)
    saved = (x.new_empty(shape) for shape in _backend(backend).saved_shapes(inputs, training))
    return x.new_empty(x.shape), state, *saved


def _backward(*arguments) -> tuple[Tensor, ...]:
    """Gradients of x, dt, A, B, C, D and initial_state; an empty tensor where the input is None."""
    inputs, (*saved, grad_y, grad_final_state, backend) = arguments[:_INPUT_COUNT], arguments[_INPUT_COUNT:]
    x = inputs[0]
    with without_autocast(x.device.type):
        grads = _backend(backend).backward(SSDInputs(*inputs), Saved(*saved), grad_y, grad_final_state)
    return tuple(x.new_empty(0) if grad is None else grad for grad in grads)


def _backward_fake(x, *arguments) -> tuple[Tensor, ...]:
    inputs = (x, *arguments[: _INPUT_COUNT - 1])
    return tuple(x.new_empty(0 if t is None else t.shape) for t in inputs)


def _save(ctx, inputs, output) -> None:
    _, _, *saved = output
    ctx.save_for_backward(*inputs[:_INPUT_COUNT], *saved)
    *_, ctx.want_state, ctx.backend = inputs
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_y, grad_final_state, *_):
    tensors = ctx.saved_tensors
    if grad_y is None and grad_final_state is None:
        return (None,) * (_INPUT_COUNT + 3)
    if grad_y is None:
        grad_y = tensors[0].new_zeros(tensors[0].shape)
    if not ctx.want_state:
        grad_final_state = None
    grads = ssd_backward(*tensors, grad_y, grad_final_state, ctx.backend)
    return *(None if t is None else g for t, g in zip(tensors, grads, strict=False)), None, None, None


ssd = operators.define(
    f"ssd({_INPUTS}, bool training, bool want_state, str backend)"
    " -> (Tensor y, Tensor final_state, Tensor decay, Tensor before, Tensor between)",
    _forward,
    _forward_fake,
    _differentiate,
    _save,
)
ssd_backward = operators.define(
    f"ssd_backward({_INPUTS}, Tensor decay, Tensor before, Tensor between, Tensor grad_y, Tensor? grad_final_state,"
    f" str backend) -> ({', '.join(['Tensor'] * _INPUT_COUNT)})",
    _backward,
    _backward_fake,
)


@register_flop_formula(torch.ops.ablate.ssd)
def _forward_flops(x, dt, A, B, C, D, initial_state, *_, out_shape=None, **__) -> int:
    batch, length, heads, width = x
    return flops.ssd(batch, length, heads, width, B[2], chunk=CHUNK, from_zero=initial_state is None)


@register_flop_formula(torch.ops.ablate.ssd_backward)
def _backward_flops(x, dt, A, B, C, D, initial_state, *_, out_shape=None, **__) -> int:
    batch, length, heads, width = x
    from_zero = initial_state is None
    return flops.ssd_backward(batch, length, heads, width, B[2], chunk=CHUNK, from_zero=from_zero)
