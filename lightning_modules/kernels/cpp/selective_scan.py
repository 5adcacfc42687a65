"""Selective scan in C++: fills the argument structure of source/selective_scan.h and calls it.

Shapes: B batch, K directions, L positions, C channels, N states.
"""

import ctypes
from typing import overload

import torch
from torch import Tensor

from lightning_modules.kernels.cpp import library
from lightning_modules.kernels.layout import packed_channels
from lightning_modules.kernels.scan_inputs import ScanGradients, ScanInputs, ScanOutputs, bad_order, in_dtypes

_KERNEL_SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_POINTERS = (
    "u delta A B C D z delta_bias initial_state order reverse y ungated checkpoints final_state grad_y grad_final_state"
    " grad_u grad_delta grad_A grad_B grad_C grad_D grad_z grad_delta_bias grad_initial_state"
).split()
_STRIDED = ("u", "delta", "B", "C", "z", "grad_y")


class _Arguments(ctypes.Structure):
    """scan::Arguments of source/selective_scan.h, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "directions", "length", "channels", "states", "threads")),
        *((name, ctypes.c_int64) for name in ("softplus", "stack", "shared_input")),
        *((f"{name}_strides", ctypes.c_int64 * 3) for name in _STRIDED),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


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


def _call(kernel: str, inputs: ScanInputs, others: dict[str, Tensor | None]) -> None:
    arguments = _Arguments(
        *inputs.delta.shape,
        inputs.A.shape[2],
        torch.get_num_threads(),
        inputs.softplus,
        inputs.stack,
        inputs.u.shape[1] == 1,
    )
    for name in _POINTERS[:10]:
        _set(arguments, name, getattr(inputs, name))
    reverse = bytes(inputs.reverse)  # lives as long as the call
    arguments.reverse = ctypes.cast(ctypes.c_char_p(reverse), ctypes.c_void_p)
    for name, tensor in others.items():
        _set(arguments, name, tensor)
    function = getattr(library.load(), f"selective_scan_{kernel}_{_KERNEL_SUFFIX[inputs.u.dtype]}")
    status = function(ctypes.byref(arguments))
    if status == 1:
        raise bad_order()
    if status == 2:
        raise MemoryError("The C++ selective scan could not allocate its work space.")


def _set(arguments: _Arguments, name: str, tensor: Tensor | None) -> None:
    if tensor is None or not tensor.numel():
        return
    setattr(arguments, name, tensor.data_ptr())
    if name in _STRIDED:
        strides = tensor.stride()
        if tensor.ndim == 4:
            shared = tensor.shape[1] == 1
            setattr(arguments, f"{name}_strides", (strides[0], 0 if shared else strides[1], strides[2]))
        else:
            setattr(arguments, f"{name}_strides", (strides[0], 0, strides[1]))


@overload
def _whole(tensor: Tensor) -> Tensor: ...
@overload
def _whole(tensor: Tensor | None) -> Tensor | None: ...
def _whole(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float().contiguous()
