"""What the one-call steps of whole networks have in common on the Python side: see source/decode.h for the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_modules.kernels.cpp import library

MAX_BATCH = 64
"""Beyond this, matrix products of many samples are computation, which PyTorch's library does better."""
_SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def entry_point(operation: str, dtype: torch.dtype) -> Callable[[Any], Any]:
    """The C++ function of a step with matrices of this type; takes its structure of arguments by reference."""
    return getattr(library.load(), f"{operation}_{_SUFFIX[dtype]}")


def check_batch(batch: int) -> None:
    """Raises ValueError for more than `MAX_BATCH` samples."""
    if batch > MAX_BATCH:
        raise ValueError(f"The C++ decoder takes up to {MAX_BATCH} samples, not {batch}.")


def check_tensor(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...] | None = None) -> None:
    """Raises ValueError unless the tensor is contiguous, of this type, of this shape if one is given, on the CPU."""
    if tensor.dtype != dtype or not tensor.is_contiguous() or tensor.device.type != "cpu":
        found = tensor.dtype if tensor.is_contiguous() else f"strided {tensor.dtype}"
        raise ValueError(f"{name} must be contiguous {dtype} on the CPU, not {found} on {tensor.device.type}.")
    if shape is not None and tensor.shape != shape:
        raise ValueError(f"{name} must be {shape}, not {tuple(tensor.shape)}.")
