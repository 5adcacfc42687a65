"""How tensors must lie in memory for the kernels."""

from torch import Tensor


def packed_channels(tensor: Tensor) -> Tensor:
    """The tensor with contiguous channels, its last axis; other strides are free."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
