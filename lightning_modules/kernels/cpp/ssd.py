"""State space duality in C++.

Shapes: B batch, L positions, H heads, P channels of a head, N states; c chunks.
"""

import torch
from torch import Tensor

from lightning_modules.kernels.cpp import library
from lightning_modules.kernels.layout import empty_like
from lightning_modules.kernels.ssd_inputs import Saved, SavedShapes, SSDGradients, SSDInputs

CHUNK = 64
_OUT_OF_MEMORY = 2  # kOutOfMemory of source/parallel.h


def saved_shapes(inputs: SSDInputs, training: bool) -> SavedShapes:
    """Of what `forward` saves: at most the states before each chunk."""
    batch, length, heads, width = inputs.x.shape
    states = inputs.B.shape[2]
    chunks = -(-length // _chunk(length, states))
    if not training or (chunks == 1 and inputs.initial_state is None):
        return (0,), (0,), (0,)
    return (0,), (batch, chunks, heads, width, states), (0,)


def _chunk(length: int, states: int) -> int:
    """Positions of a chunk. A state between chunks costs two products of `states` columns, one chunk for all positions
    half of `length`: a single one is faster until it is about three times as long as there are states."""
    return length if length <= CHUNK + 3 * states else CHUNK


def forward(inputs: SSDInputs, *, training: bool, want_state: bool) -> tuple[Tensor, Tensor, Saved]:
    """float32 tensors -> y (B, L, H, P) and final state (B, H, P, N), empty unless `want_state`."""
    x, y = inputs.x, empty_like(inputs.x)
    state = x.new_empty((x.shape[0], *x.shape[2:], inputs.B.shape[2]) if want_state else 0)
    saved = Saved(*(x.new_empty(shape) for shape in saved_shapes(inputs, training)))
    _call("forward", inputs, (y, state, saved.before))
    return y, state, saved


def backward(inputs: SSDInputs, saved: Saved, grad_y: Tensor, grad_final_state: Tensor | None) -> SSDGradients:
    """Bitwise the same for any number of threads."""
    x = inputs.x
    grads = [None if t is None else empty_like(t) for t in inputs]
    parts = [x.new_empty(x.shape[0], x.shape[2]) for _ in range(2)]  # of A and D, by batch element
    grads[2], grads[5] = parts[0], None if inputs.D is None else parts[1]
    received = (grad_y.contiguous(), None if grad_final_state is None else grad_final_state.contiguous())
    _call("backward", inputs, (None, None, saved.before), received, grads)
    for index in (2, 5):
        if (part := grads[index]) is not None:
            grads[index] = part.sum(0)
    return tuple(grads)


def _call(
    kernel: str,
    inputs: SSDInputs,
    outputs: tuple[Tensor | None, ...],
    received: tuple[Tensor | None, ...] = (None, None),
    grads: list[Tensor | None] | None = None,
) -> None:
    """Fills ssd::Arguments of source/ssd.h, field by field."""
    x, dt, A, B, C, D, initial_state = inputs
    x, dt, B, C = (_packed(t) for t in (x, dt, B, C))
    others = (None if t is None else t.contiguous() for t in (D, initial_state))
    given = (x, dt, A.contiguous(), B, C, *others)
    sizes = (*x.shape, B.shape[2], _chunk(x.shape[1], B.shape[2]), torch.get_num_threads())
    strides = (stride for t in (x, dt, B, C) for stride in t.stride()[:2])
    tensors = (*given, *outputs, *received, *(grads or [None] * 7))
    status = library.call(f"ssd_{kernel}", x.dtype, (*sizes, *strides, *map(library.address, tensors)))
    if status == _OUT_OF_MEMORY:
        raise MemoryError("The C++ state space duality could not allocate its work space.")


def _packed(tensor: Tensor) -> Tensor:
    """The tensor with contiguous positions, which may lie apart, as parts of a wider one do."""
    return tensor if tensor[0, 0].is_contiguous() else tensor.contiguous()
