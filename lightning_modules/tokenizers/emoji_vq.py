"""The embedded tokenizer: 32x32 images <-> 8x8 tokens, weights shipped with the package."""

from __future__ import annotations

import torch

from lightning_modules.checkpoints import load_safetensors
from lightning_modules.tokenizers.config import EmojiVQConfig
from lightning_modules.tokenizers.vq import VQAutoencoder


class EmojiVQ(VQAutoencoder):
    """`VQAutoencoder` at the embedded size. Weights are stored as float16.

    Unlike the published tokenizers it computes in half precision where autocast is on, as when samples are decoded
    under trainer.precision=bf16: the numbers of the demo presets were measured so.

    Raises:
        FileNotFoundError, ValueError: weights that are absent, damaged, or of another architecture.
    """

    def __init__(self, config: EmojiVQConfig):
        super().__init__(
            config.channels, config.blocks, config.latent_width, config.codebook_size, config.code_width, config.groups
        )
        if (file := config.weight_file()) is not None:
            self.load_state_dict(load_safetensors(file, self.state_dict()))
        self.to(memory_format=torch.channels_last)
