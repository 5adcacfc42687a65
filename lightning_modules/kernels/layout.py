"""Dtypes, strides and shapes that the kernels ask for.

Conversions that would change nothing are not even called: in a small scan, calls take most of the time.
"""

from collections.abc import Mapping
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


def check_alike(expected: Mapping[str, tuple[Tensor | None, tuple[int, ...]]], leader: Tensor, leaders: str) -> None:
    """Raises ValueError where a tensor has another shape than stands beside it, or lies on another device than
    `leader`: kernels take addresses as they come.

    Args:
        leaders: names of the tensors that the shapes follow from, for messages.
    """
    device = leader.device
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(f"{name} must have shape {shape} to go with {leaders}, not {tuple(tensor.shape)}.")
        if tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}, other tensors are on {device}: move all to one device.")


def empty_like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised and contiguous, whatever the strides of `tensor`."""
    return torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
