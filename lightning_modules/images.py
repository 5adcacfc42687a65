"""Images between files and networks.

Shapes: B batch, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def from_uint8(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """(B, 3, H, W), about [-1, 1] -> (B, H, W, 3) uint8, `rounded`."""
    return rounded(images).permute(0, 2, 3, 1).contiguous()


def rounded(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8, clamped: round(127.5 x + 127.5), which is the floor(127.5 x + 128) of LlamaGen's evaluation."""
    return (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
