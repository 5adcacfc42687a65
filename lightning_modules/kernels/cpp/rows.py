"""Norms, residual branches and SwiGLU's activation in C++: one pass over memory each.

Shapes: B batch, L positions, C channels, H hidden width.
"""

import struct

import torch
from torch import Tensor

from lightning_modules.kernels.cpp import library
from lightning_modules.kernels.layout import empty_like, packed_channels

CHUNK = 32
"""parallel::Chunks::kPositions of source/parallel.h: positions whose sums are taken together."""
NUMBERS = 1 << 24
"""kAll of source/residual.cpp: dropout keeps an element where one of so many numbers is less than its threshold."""


def rms_norm(
    x: Tensor, factor: Tensor | None, gate: Tensor | None, shift: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """x, gate: (B, L, C) float32 or bfloat16; factor: (C,) or (B, C), shift: (B, C), float32 -> y, 1 / rms (B, L)."""
    y, rstd = empty_like(x), x.new_empty(x.shape[:2], dtype=torch.float32)
    _norm("forward", x, factor, gate, shift, eps, (y, rstd, None), (None, None, None, None))
    return y, rstd


def rms_norm_backward(
    x: Tensor, factor: Tensor | None, gate: Tensor | None, rstd: Tensor, grad_y: Tensor, shifted: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, factor, gate and shift; bitwise the same for any number of threads."""
    grad_x, grad_gate = empty_like(x), None if gate is None else empty_like(gate)
    grad_factor, grad_shift = (_chunks(x) if wanted else None for wanted in (factor is not None, shifted))
    grad_y = packed_channels(grad_y)
    _norm("backward", x, factor, gate, None, 0.0, (None, rstd, grad_y), (grad_x, grad_gate, grad_factor, grad_shift))
    if grad_factor is not None:
        assert factor is not None
        grad_factor = grad_factor.sum(1) if factor.ndim == 2 else grad_factor.sum((0, 1))
    return grad_x, grad_factor, grad_gate, None if grad_shift is None else grad_shift.sum(1)


def residual(x: Tensor | None, h: Tensor, gate: Tensor | None, seed: int, dropout: float) -> Tensor:
    """x: (B, L, C) float32 or bfloat16; h: as x, or bfloat16; gate: (B, C) float32 -> (B, L, C) as x, else as h."""
    y = empty_like(h if x is None else x)
    _residual(x, h, gate, seed, dropout, y.dtype, (y, None, None, None))
    return y


def residual_backward(
    h: Tensor | None, gate: Tensor | None, seed: int, dropout: float, grad_y: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Gradients of h, which is of `dtype`, and of the gate, where there is one; without it no h is needed."""
    grad_y = packed_channels(grad_y)
    grad_h = empty_like(grad_y, dtype)
    grad_gate = None if gate is None else _chunks(grad_y)
    _residual(None, grad_h if h is None else h, gate, seed, dropout, grad_y.dtype, (None, grad_y, grad_h, grad_gate))
    return grad_h, None if grad_gate is None else grad_gate.sum(1)


def swiglu(gate_up: Tensor) -> Tensor:
    """(B, L, 2 H), gates before ups -> silu(gate) up, (B, L, H)."""
    gate_up = gate_up.contiguous()
    y = gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))
    _swiglu(gate_up, y, None, None)
    return y


def swiglu_backward(gate_up: Tensor, grad_y: Tensor) -> Tensor:
    """Gradient of gate_up."""
    grad = empty_like(gate_up)
    _swiglu(gate_up.contiguous(), None, grad_y.contiguous(), grad)
    return grad


def _norm(
    kernel: str,
    x: Tensor,
    factor: Tensor | None,
    gate: Tensor | None,
    shift: Tensor | None,
    eps: float,
    outputs: tuple[Tensor | None, Tensor, Tensor | None],
    grads: tuple[Tensor | None, ...],
) -> None:
    """Fills rms::Arguments of source/rms_norm.h, field by field; outputs: y, rstd, grad_y."""
    x, gate = packed_channels(x), None if gate is None else packed_channels(gate)
    factor, shift = None if factor is None else factor.contiguous(), None if shift is None else shift.contiguous()
    (eps_bits,) = struct.unpack("q", struct.pack("d", eps))
    sizes = (*x.shape, torch.get_num_threads(), eps_bits)
    strides = (*_strides(x), *_strides(gate), *_strides(outputs[2]))
    inputs = (library.address(x), library.address(gate), library.address(factor), _batch_stride(factor))
    rest = map(library.address, (shift, *outputs, *grads))
    if library.call(f"rms_norm_{kernel}", x.dtype, (*sizes, *strides, *inputs, *rest)):
        raise MemoryError("The C++ norm could not allocate its work space.")


def _residual(
    x: Tensor | None,
    h: Tensor,
    gate: Tensor | None,
    seed: int,
    dropout: float,
    dtype: torch.dtype,
    outputs: tuple[Tensor | None, ...],
) -> None:
    """Fills residual::Arguments of source/residual.h, field by field; dtype: of x and y."""
    h, x = packed_channels(h), None if x is None else packed_channels(x)
    gate = None if gate is None else packed_channels(gate)
    y, grad_y, grad_h, grad_gate = outputs
    sizes = (*h.shape, torch.get_num_threads(), dtype != h.dtype, seed, round((1 - dropout) * NUMBERS))
    strides = (*_strides(x), *_strides(h), *_strides(grad_y))
    inputs = (library.address(x), library.address(h), library.address(gate), _batch_stride(gate))
    rest = map(library.address, (y, grad_y, grad_h, grad_gate))
    library.call("residual", h.dtype, (*sizes, *strides, *inputs, *rest))


def _swiglu(gate_up: Tensor, *others: Tensor | None) -> None:
    """Fills swiglu::Arguments of source/swiglu.h, field by field."""
    hidden = gate_up.shape[-1] // 2
    sizes = (gate_up.numel() // (2 * hidden), hidden, torch.get_num_threads())
    library.call("swiglu", gate_up.dtype, (*sizes, *map(library.address, (gate_up, *others))))


def _chunks(tensor: Tensor) -> Tensor:
    """Room for a sum over each chunk's positions, (B, chunks, C) float32."""
    batch, length, channels = tensor.shape
    return tensor.new_empty(batch, -(-length // CHUNK), channels, dtype=torch.float32)


def _strides(tensor: Tensor | None) -> tuple[int, ...]:
    """Of the batch and of the positions."""
    return (0, 0) if tensor is None else tensor.stride()[:2]


def _batch_stride(tensor: Tensor | None) -> int:
    """Of vectors (B, C); 0 for one that all of the batch share."""
    return tensor.stride(0) if tensor is not None and tensor.ndim == 2 else 0
