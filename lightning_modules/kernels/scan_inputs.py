"""The arguments of a selective scan in the one form that every back end takes.

Shapes: B batch, K directions, L positions, C channels, N states.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.weak import WeakTensorKeyDictionary

from lightning_modules.kernels.layout import in_dtype

TENSORS: Final = 9
"""The first fields of `ScanInputs`, u to initial_state: those that have gradients."""


class ScanInputs(NamedTuple):
    """Activations share one dtype; parameters and states are float32, or float64 with float64 activations."""

    u: Tensor  # (B, 1 or K, L, C)
    delta: Tensor  # (B, K, L, C)
    A: Tensor  # (K, C, N)
    B: Tensor  # (B, K, L, N)
    C: Tensor  # (B, K, L, N)
    D: Tensor | None  # (K, C)
    z: Tensor | None  # (B, L, C)
    delta_bias: Tensor | None  # (K, C)
    initial_state: Tensor | None  # (B, K, C, N)
    order: Tensor | None  # int32 or int64 (K, L); None: see reverse
    reverse: list[bool]  # per direction, read where order is None
    softplus: bool
    stack: bool  # y is (B, K, L, C) rather than summed to (B, L, C)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """Those that have gradients."""
        return tuple(self[:TENSORS])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of y: (B, K, L, C), or (B, L, C) where directions are summed."""
        batch, directions, length, channels = self.delta.shape
        return (batch, directions, length, channels) if self.stack else (batch, length, channels)

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Of states: (B, K, C, N)."""
        batch, directions, _, channels = self.delta.shape
        return batch, directions, channels, self.A.shape[2]

    def visiting_order(self) -> Tensor:
        """int64 (K, L): the storage position each direction visits at each step."""
        if self.order is not None:
            return self.order.long()
        ahead = torch.arange(self.delta.shape[2], device=self.delta.device)
        return torch.stack([ahead.flip(0) if backwards else ahead for backwards in self.reverse])

    def check_order(self) -> None:
        """Raises ValueError where `order` is no permutation of the positions; not while tracing, without its values."""
        tracing = torch.compiler.is_compiling() or isinstance(self.order, FakeTensor)
        if self.order is None or self.order.is_meta or tracing:
            return
        written = None if self.order.is_inference() else self.order._version
        if written is not None and _checked.get(self.order) == written:
            return
        positions = torch.arange(self.order.shape[1], device=self.order.device, dtype=self.order.dtype)
        if not torch.equal(self.order.sort(1).values, positions.expand_as(self.order)):
            raise bad_order()
        if written is not None:
            _checked[self.order] = written


# Orders that were looked through, and how often they had been written to by then: layers scan in the same orders step
# after step, and on a GPU every look waits for all that is queued.
_checked: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def bad_order() -> ValueError:
    """The error of an `order` that is no permutation."""
    return ValueError("order must hold, per direction, every position 0 .. length - 1 exactly once.")


class ScanOutputs(NamedTuple):
    """What a back end's forward returns; empty tensors stand for what was not asked for."""

    y: Tensor
    final_state: Tensor  # (B, K, C, N)
    ungated: Tensor  # y before the gate, for the backward of z
    checkpoints: Tensor  # states along the way, in the back end's own layout, for the backward


# Gradients of ScanInputs.tensors, None where the input is None.
ScanGradients = tuple[Tensor | None, ...]


def in_dtypes(grads: Iterable[Tensor | None], inputs: ScanInputs) -> ScanGradients:
    """Gradients of all of ScanInputs.tensors, each in its input's dtype; None where there is no input."""
    pairs = zip(grads, inputs.tensors, strict=True)
    return tuple(None if tensor is None else in_dtype(grad, tensor.dtype) for grad, tensor in pairs)
