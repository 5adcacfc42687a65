"""How tensors must be for the kernels; what would change nothing is not called, since small scans are all calls."""

from typing import overload

import torch
from torch import Tensor


def packed_channels(tensor: Tensor) -> Tensor:
    """The tensor with contiguous channels, its last axis; other strides are free."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


@overload
def in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor: ...
@overload
def in_dtype(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None: ...
def in_dtype(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The tensor converted to `dtype`; None where there is none."""
    return tensor if tensor is None or tensor.dtype == dtype else tensor.to(dtype)


def empty_like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised and contiguous, whatever the strides of `tensor`."""
    return torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
