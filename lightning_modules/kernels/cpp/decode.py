"""What the one-call steps of whole networks have in common on the Python side: see source/decode.h for the other."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lightning_modules.kernels.cpp import library

MAX_BATCH = 64
"""Beyond this, matrix products of many samples are computation, which PyTorch's library does better."""


class Step:
    """A C++ function that computes one step, with its structure of arguments, filled in once.

    Args:
        operation: name of the function; the dtype of the tensor `head` picks its variant.
        layers: pointers of every layer, those of the structure's `Layer`, in its order.
        sizes, tensors: fields of the structure's `Arguments`, in its order; epsilon and the layers stand between them.

    The tensors are held, and read where they lie.
    """

    def __init__(
        self,
        operation: str,
        layers: Iterable[Iterable[Tensor]],
        sizes: Mapping[str, int],
        epsilon: float,
        tensors: Mapping[str, Tensor],
    ):
        class Arguments(ctypes.Structure):
            _fields_ = [
                *((name, ctypes.c_int64) for name in sizes),
                ("epsilon", ctypes.c_float),
                ("layer", ctypes.c_void_p),
                *((name, ctypes.c_void_p) for name in tensors),
            ]

        self._held = [tensor for layer in layers for tensor in layer], tensors
        self._layers = (ctypes.c_void_p * len(self._held[0]))(*map(library.address, self._held[0]))
        pointers = (ctypes.addressof(self._layers), *map(library.address, tensors.values()))
        self._arguments = Arguments(*sizes.values(), epsilon, *pointers)
        self._threads = sizes["threads"]
        self._run = library.variant(operation, tensors["head"].dtype)

    def __call__(self, **changed: int) -> None:
        """Run, with other sizes from now on where they are given."""
        for name, value in changed.items():
            setattr(self._arguments, name, value)
        self._arguments.threads = min(self._threads, torch.get_num_threads())  # scratch was cut for so many
        self._run(ctypes.byref(self._arguments))


def check_batch(batch: int) -> None:
    """Raises ValueError for more than `MAX_BATCH` samples."""
    if batch > MAX_BATCH:
        raise ValueError(f"The C++ decoder takes up to {MAX_BATCH} samples, not {batch}.")


def check_tensor(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless the tensor is contiguous, of this type and shape, on the CPU."""
    if tensor.dtype != dtype or not tensor.is_contiguous() or tensor.device.type != "cpu":
        found = tensor.dtype if tensor.is_contiguous() else f"strided {tensor.dtype}"
        raise ValueError(f"{name} must be contiguous {dtype} on the CPU, not {found} on {tensor.device.type}.")
    if tensor.shape != shape:
        raise ValueError(f"{name} must be {shape}, not {tuple(tensor.shape)}.")


def check_layers(
    layers: Iterable[Mapping[str, Tensor]], shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, torch.dtype]
) -> None:
    """`check_tensor` for the tensors of all layers; those without a dtype are float32."""
    for layer in layers:
        for name, shape in shapes.items():
            check_tensor(name, layer[name], dtypes.get(name, torch.float32), shape)


def take(name: str, value: Tensor, into: Tensor) -> None:
    """Copy a step's input, of any type. Raises ValueError for another shape, or where it wants a gradient."""
    if value.shape != into.shape:
        raise ValueError(f"{name} must be {tuple(into.shape)}, not {tuple(value.shape)}.")
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} wants a gradient, but decoding has none: use torch.no_grad().")
    into.copy_(value)
