"""No autoencoder at all: the latents are the pixels.

Shapes: B batch, H x W pixels, h = H / downsample.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.images import from_uint8, to_uint8
from lightning_modules.tokenizers.config import PixelsConfig


class Pixels(nn.Module):
    """uint8 images <-> latents (B, 3, h, w) in [-1, 1]; a coarser grid holds the mean of each square of pixels."""

    def __init__(self, config: PixelsConfig):
        super().__init__()
        self.downsample = config.downsample

    @torch.inference_mode()
    def encode_uint8(self, images: Tensor) -> Tensor:
        """images: (B, H, W, 3) uint8 -> (B, 3, h, w) float32."""
        return F.avg_pool2d(from_uint8(images), self.downsample)

    @torch.inference_mode()
    def decode_uint8(self, latents: Tensor) -> Tensor:
        """latents: (B, 3, h, w) -> images (B, H, W, 3) uint8, a coarser grid enlarged bicubically."""
        if self.downsample > 1:
            latents = F.interpolate(latents.float(), scale_factor=float(self.downsample), mode="bicubic")
        return to_uint8(latents)
