"""Selective scan in C++.

Shapes: B batch, K directions, L positions, C channels, N states.
"""

import ctypes
from typing import overload

import torch
from torch import Tensor

from lightning_modules.kernels.cpp import library
from lightning_modules.kernels.layout import empty_like, in_dtype, packed_channels
from lightning_modules.kernels.scan_inputs import ScanGradients, ScanInputs, ScanOutputs, bad_order, in_dtypes


def saved_shapes(inputs: ScanInputs, training: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of ScanOutputs.ungated and .checkpoints (B, K, chunks x blocks of channels, N, lanes)."""
    if not training:
        return (0,), (0,)
    batch, directions, length, channels = inputs.delta.shape
    lanes, chunk = library.load().simd_lanes(), library.load().selective_scan_chunk()
    slots = -(-length // chunk) * -(-channels // lanes)
    checkpoints = (batch, directions, slots, inputs.A.shape[2], lanes)
    return inputs.output_shape if inputs.z is not None else (0,), checkpoints


def _prepare(inputs: ScanInputs) -> ScanInputs:
    """Channel-contiguous activations, contiguous float32 parameters and states, int32 order."""
    return inputs._replace(
        u=packed_channels(inputs.u),
        delta=packed_channels(inputs.delta),
        z=None if inputs.z is None else packed_channels(inputs.z),
        B=packed_channels(in_dtype(inputs.B, torch.float32)),
        C=packed_channels(in_dtype(inputs.C, torch.float32)),
        A=_whole(inputs.A),
        D=_whole(inputs.D),
        delta_bias=_whole(inputs.delta_bias),
        initial_state=_whole(inputs.initial_state),
        order=None if inputs.order is None else in_dtype(inputs.order, torch.int32).contiguous(),
    )


def forward(inputs: ScanInputs, *, training: bool, want_state: bool) -> ScanOutputs:
    """See ScanOutputs. Raises ValueError where `order` is no permutation of the positions."""
    if inputs.order is not None and inputs.order.dtype != torch.int32:
        inputs.check_order()  # before values beyond int32 are cut off
    ungated_shape, checkpoint_shape = saved_shapes(inputs, training)
    outputs = ScanOutputs(
        y=inputs.u.new_empty(inputs.output_shape),
        final_state=inputs.A.new_empty(inputs.state_shape if want_state else 0),
        ungated=inputs.u.new_empty(ungated_shape),
        checkpoints=inputs.A.new_empty(checkpoint_shape),
    )
    _call("forward", _prepare(inputs), outputs)
    return outputs


def backward(
    inputs: ScanInputs, ungated: Tensor, checkpoints: Tensor, grad_y: Tensor, grad_final_state: Tensor | None
) -> ScanGradients:
    """Bitwise the same for any number of threads."""
    # All float32 but delta's: u and z may be sums over directions, which half precision would round at every step.
    grads = tuple(
        None if t is None else empty_like(t, t.dtype if name == "delta" else torch.float32)
        for name, t in zip(ScanInputs._fields, inputs.tensors, strict=False)
    )
    saved = (None, None, ungated, checkpoints)
    _call("backward", _prepare(inputs), saved, packed_channels(grad_y), _whole(grad_final_state), grads)
    return in_dtypes(grads, inputs)


def _call(
    kernel: str,
    inputs: ScanInputs,
    outputs: tuple[Tensor | None, ...],
    grad_y: Tensor | None = None,
    grad_final_state: Tensor | None = None,
    grads: ScanGradients = (None,) * 9,
) -> None:
    """Fills scan::Arguments of source/selective_scan.h, field by field."""
    shape = inputs.delta.shape
    sizes = (*shape, inputs.A.shape[2], torch.get_num_threads())
    options = (inputs.softplus, inputs.stack, inputs.u.shape[1] == 1)
    strided = (inputs.u, inputs.delta, inputs.B, inputs.C, inputs.z, grad_y)
    strides = (stride for tensor in strided for stride in _strides(tensor))
    reverse = (ctypes.c_uint8 * shape[1])(*inputs.reverse)
    given = (*map(library.address, inputs[:10]), ctypes.addressof(reverse))
    others = map(library.address, (*outputs, grad_y, grad_final_state, *grads))
    status = library.call(f"selective_scan_{kernel}", inputs.u.dtype, (*sizes, *options, *strides, *given, *others))
    if status == 1:
        raise bad_order()
    if status == 2:
        raise MemoryError("The C++ selective scan could not allocate its work space.")


def _strides(tensor: Tensor | None) -> tuple[int, int, int]:
    """Between batch elements, directions (0 where they share the tensor) and positions."""
    if tensor is None:
        return 0, 0, 0
    strides = tensor.stride()
    if tensor.ndim == 3:
        return strides[0], 0, strides[1]
    return strides[0], 0 if tensor.shape[1] == 1 else strides[1], strides[2]


@overload
def _whole(tensor: Tensor) -> Tensor: ...
@overload
def _whole(tensor: Tensor | None) -> Tensor | None: ...
def _whole(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else in_dtype(tensor, torch.float32).contiguous()
