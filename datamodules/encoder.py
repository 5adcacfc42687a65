"""The half of a frozen tokenizer that data modules need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ImageEncoder:
    """How images become codes.

    Attributes:
        encode: images (B, H, W, 3) uint8 -> tokens (B, L) int64 or latents (B, C, h, w), on any device.
        fingerprint: identifies the weights; a token store belongs to one fingerprint.
        vocab_size: tokens are in [0, vocab_size); 0 for latents.
    """

    encode: Callable[[Tensor], Tensor]
    fingerprint: str
    vocab_size: int
