"""Selective scan as a torch.library operator: opaque to torch.compile, known to autograd, fake tensors, FLOP counters.

Shapes: B batch, K directions, L positions, C channels, N states.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from lightning_modules import backends
from lightning_modules.kernels import dispatch, flops, operators
from lightning_modules.kernels.implementation import implementation
from lightning_modules.kernels.scan_inputs import TENSORS, ScanInputs
from lightning_modules.precision import without_autocast

_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias,"
    " Tensor? initial_state, Tensor? order, bool[] reverse, bool softplus, bool stack"
)
_INPUT_COUNT = len(ScanInputs._fields)
_ARGUMENT_COUNT = _INPUT_COUNT + 3  # of the forward: training, want_state and backend too


def _backend(name: str) -> ModuleType:
    return implementation(name, "selective_scan")


def _forward(*arguments) -> tuple[Tensor, ...]:
    inputs, (training, want_state, backend) = ScanInputs(*arguments[:_INPUT_COUNT]), arguments[_INPUT_COUNT:]
    dispatch.record(backends.SELECTIVE_SCAN, backend)
    with without_autocast(inputs.u.device.type):
        return tuple(_backend(backend).forward(inputs, training=training, want_state=want_state))


def _forward_fake(*arguments) -> tuple[Tensor, ...]:
    inputs, (training, want_state, backend) = ScanInputs(*arguments[:_INPUT_COUNT]), arguments[_INPUT_COUNT:]
    ungated_shape, checkpoint_shape = _backend(backend).saved_shapes(inputs, training)
    return (
        inputs.u.new_empty(inputs.output_shape),
        inputs.A.new_empty(inputs.state_shape if want_state else 0),
        inputs.u.new_empty(ungated_shape),
        inputs.A.new_empty(checkpoint_shape),
    )


def _backward(*arguments) -> tuple[Tensor, ...]:
    """Gradients of ScanInputs.tensors; an empty tensor where the input is None."""
    inputs, saved, backend = ScanInputs(*arguments[:_INPUT_COUNT]), arguments[_INPUT_COUNT:-1], arguments[-1]
    with without_autocast(inputs.u.device.type):
        grads = _backend(backend).backward(inputs, *saved)
    return tuple(inputs.A.new_empty(0) if grad is None else grad for grad in grads)


def _backward_fake(*arguments) -> tuple[Tensor, ...]:
    inputs = ScanInputs(*arguments[:_INPUT_COUNT])
    return tuple(inputs.A.new_empty(0) if t is None else t.new_empty(t.shape) for t in inputs.tensors)


def _save(ctx, inputs, output) -> None:
    *_, order, reverse, softplus, stack, training, want_state, backend = inputs
    _, _, ungated, checkpoints = output
    ctx.save_for_backward(*inputs[:TENSORS], order, ungated, checkpoints)
    ctx.options = (reverse, softplus, stack)
    ctx.want_state, ctx.backend = want_state, backend
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_y, grad_final_state, *_):
    *tensors, order, ungated, checkpoints = ctx.saved_tensors
    if grad_y is None and grad_final_state is None:
        return (None,) * _ARGUMENT_COUNT
    if grad_y is None:
        inputs = ScanInputs._make((*tensors, order, *ctx.options))
        grad_y = inputs.u.new_zeros(inputs.output_shape)
    if not ctx.want_state:
        grad_final_state = None
    grads = selective_scan_backward(
        *tensors, order, *ctx.options, ungated, checkpoints, grad_y, grad_final_state, ctx.backend
    )
    of_tensors = (None if t is None else g for t, g in zip(tensors, grads, strict=True))
    return *of_tensors, *(None,) * (_ARGUMENT_COUNT - TENSORS)


def _scan_flops(delta: Sequence[int], A: Sequence[int], z: Sequence[int] | None, stack: bool, backward: bool) -> int:
    batch, directions, length, channels = delta
    gates = 0 if z is None else directions if stack else 1
    count = flops.selective_scan(batch, directions, length, channels, A[2], gates=gates)
    return count * flops.BACKWARD_FACTOR if backward else count


selective_scan = operators.define(
    f"selective_scan({_INPUTS}, bool training, bool want_state, str backend)"
    " -> (Tensor y, Tensor final_state, Tensor ungated, Tensor checkpoints)",
    _forward,
    _forward_fake,
    _differentiate,
    _save,
)
selective_scan_backward = operators.define(
    f"selective_scan_backward({_INPUTS}, Tensor ungated, Tensor checkpoints, Tensor grad_y, Tensor? grad_final_state,"
    f" str backend) -> ({', '.join(['Tensor'] * TENSORS)})",
    _backward,
    _backward_fake,
)


@register_flop_formula(torch.ops.ablate.selective_scan)
def _forward_flops(u, delta, A, B, C, D, z, bias, state, order, reverse, softplus, stack, *_, **__) -> int:
    return _scan_flops(delta, A, z, stack, backward=False)


@register_flop_formula(torch.ops.ablate.selective_scan_backward)
def _backward_flops(u, delta, A, B, C, D, z, bias, state, order, reverse, softplus, stack, *_, **__) -> int:
    return _scan_flops(delta, A, z, stack, backward=True)
