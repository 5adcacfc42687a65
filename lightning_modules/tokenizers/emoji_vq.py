"""The embedded tokenizer: 32x32 images <-> 8x8 tokens, weights shipped with the package."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.tokenizers.config import EmojiVQConfig
from lightning_modules.tokenizers.vq import VQAutoencoder


class EmojiVQ(VQAutoencoder):
    """`VQAutoencoder` at the embedded size. Weights are stored as float16 and computed with in float32."""

    def __init__(self, config: EmojiVQConfig):
        super().__init__(
            config.channels, config.blocks, config.latent_width, config.codebook_size, config.code_width, config.groups
        )
        if (file := config.weight_file()) is not None:
            self.load_weights(file)
        self.to(memory_format=torch.channels_last)

    def load_weights(self, file) -> None:
        """Load a safetensors file.

        Raises:
            FileNotFoundError, ValueError: absent, damaged, or of another architecture; the file and the reason.
        """
        from lightning_modules.checkpoints import load_safetensors

        self.load_state_dict(load_safetensors(file, self.state_dict()))

    @torch.inference_mode()
    def encode_uint8(self, images: Tensor) -> Tensor:
        """images: (B, H, W, 3) uint8 -> tokens (B, L) int64."""
        return self.encode(images.permute(0, 3, 1, 2).float() / 127.5 - 1)

    @torch.inference_mode()
    def decode_uint8(self, tokens: Tensor) -> Tensor:
        """tokens: (B, L) int64 -> images (B, H, W, 3) uint8."""
        images = self.decode(tokens)
        return (images * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
