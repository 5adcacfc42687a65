"""Latents of the embedded VQ autoencoder: what its encoder says before it is quantised.

These are the VQ-regularised latents of latent diffusion (arXiv 2112.10752, section 3.1): the quantiser counts as the
decoder's first layer, so that small errors of a sample are rounded away to the nearest code.

Shapes: B batch, H x W pixels, E code width, h x w latent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.images import from_uint8
from lightning_modules.tokenizers.config import EmojiLatentConfig
from lightning_modules.tokenizers.emoji_vq import EmojiVQ


class EmojiLatent(EmojiVQ):
    """uint8 images <-> latents (B, E, h, w), unit vectors times sqrt(E): about unit variance in every channel."""

    def __init__(self, config: EmojiLatentConfig):
        super().__init__(config)
        self.scale = config.code_width**0.5

    @torch.inference_mode()
    def encode_uint8(self, images: Tensor) -> Tensor:
        """images: (B, H, W, 3) uint8 -> (B, E, h, w) float32."""
        z = self.latents(from_uint8(images))
        return F.normalize(z.float(), dim=1) * self.scale

    @torch.inference_mode()
    def decode_uint8(self, latents: Tensor) -> Tensor:
        """latents: (B, E, h, w) of any length -> the nearest codes' images (B, H, W, 3) uint8."""
        return super().decode_uint8(self.quantize(latents).indices.flatten(1))
