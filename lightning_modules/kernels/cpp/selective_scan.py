"""Selective scan in C++: fills the argument structure of source/selective_scan.h and calls it.

Shapes: B batch, K directions, L positions, C channels, N states.
"""

import ctypes
from collections.abc import Mapping
from typing import overload

import torch
from torch import Tensor

from lightning_modules.kernels.cpp import library
from lightning_modules.kernels.layout import packed_channels
from lightning_modules.kernels.scan_inputs import ScanGradients, ScanInputs, ScanOutputs, bad_order, in_dtypes

_KERNEL_SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
# The tensors of scan::Arguments of source/selective_scan.h, in the order of their strides and of their pointers.
_STRIDED = ("u", "delta", "B", "C", "z", "grad_y")
_POINTERS = (
    "u delta A B C D z delta_bias initial_state order reverse y ungated checkpoints final_state grad_y grad_final_state"
    " grad_u grad_delta grad_A grad_B grad_C grad_D grad_z grad_delta_bias grad_initial_state"
).split()


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
        B=packed_channels(inputs.B.float()),
        C=packed_channels(inputs.C.float()),
        A=_whole(inputs.A),
        D=_whole(inputs.D),
        delta_bias=_whole(inputs.delta_bias),
        initial_state=_whole(inputs.initial_state),
        order=None if inputs.order is None else inputs.order.to(torch.int32).contiguous(),
    )


def forward(inputs: ScanInputs, *, training: bool, want_state: bool) -> ScanOutputs:
    """See ScanOutputs. Raises ValueError where `order` is no permutation of the positions."""
    ungated_shape, checkpoint_shape = saved_shapes(inputs, training)
    outputs = ScanOutputs(
        y=inputs.u.new_empty(inputs.output_shape),
        final_state=inputs.A.new_empty(inputs.state_shape if want_state else 0),
        ungated=inputs.u.new_empty(ungated_shape),
        checkpoints=inputs.A.new_empty(checkpoint_shape),
    )
    _call("forward", _prepare(inputs), outputs._asdict())
    return outputs


def backward(
    inputs: ScanInputs, ungated: Tensor, checkpoints: Tensor, grad_y: Tensor, grad_final_state: Tensor | None
) -> ScanGradients:
    """Bitwise the same for any number of threads."""
    prepared = _prepare(inputs)
    # All float32 but delta's: u and z may be sums over directions, which half precision would round at every step.
    grads = {
        f"grad_{name}": None if t is None else t.new_empty(t.shape, dtype=t.dtype if name == "delta" else torch.float32)
        for name, t in zip(ScanInputs._fields, inputs.tensors, strict=False)
    }
    saved = {
        "ungated": ungated,
        "checkpoints": checkpoints,
        "grad_y": packed_channels(grad_y),
        "grad_final_state": _whole(grad_final_state),
    }
    _call("backward", prepared, saved | grads)
    return in_dtypes(grads.values(), inputs)


def _call(kernel: str, inputs: ScanInputs, others: Mapping[str, Tensor | None]) -> None:
    """Fills scan::Arguments, field by field: it is made of 64-bit numbers alone."""
    function = getattr(library.load(), f"selective_scan_{kernel}_{_KERNEL_SUFFIX[inputs.u.dtype]}")
    tensors = {**inputs._asdict(), **others}
    directions = inputs.delta.shape[1]
    reverse = (ctypes.c_uint8 * directions)(*inputs.reverse)
    fields = [*inputs.delta.shape, inputs.A.shape[2], torch.get_num_threads()]
    fields += [inputs.softplus, inputs.stack, inputs.u.shape[1] == 1]
    for name in _STRIDED:
        fields += _strides(tensors.get(name))
    for name in _POINTERS:
        tensor = tensors.get(name)
        if name == "reverse":
            fields.append(ctypes.addressof(reverse))
        else:
            fields.append(0 if tensor is None else tensor.data_ptr())  # 0 also where it has no elements
    status = function((ctypes.c_int64 * len(fields))(*fields))
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
    return None if tensor is None else tensor.float().contiguous()
