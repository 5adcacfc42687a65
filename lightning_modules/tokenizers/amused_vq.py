"""aMUSEd's VQ tokenizer (arXiv 2401.01808) from its published folder: images <-> tokens.

Shapes: B batch, H x W pixels, L = h w tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_modules.checkpoints import check_loaded
from lightning_modules.images import to_uint8
from lightning_modules.precision import without_autocast
from lightning_modules.tokenizers.config import AmusedVQConfig


class AmusedVQ(nn.Module):
    """diffusers' `VQModel`, with pixels in [0, 1] as aMUSEd has them, in float32 also under autocast.

    Raises:
        FileNotFoundError: no published folder at `config.weights`.
        ValueError: none is named; it holds another tokenizer than the configuration says, or weights that are not those
            of its config.json, key by key.
    """

    def __init__(self, config: AmusedVQConfig):
        super().__init__()
        file = config.weight_file()
        if file is None:
            raise ValueError(
                "The tokenizer amused_vq has no weights of its own; name the published folder with "
                "tokenizer.weights=amused-256."
            )
        from diffusers.models.autoencoders.vq_model import VQModel

        try:
            self.model, info = VQModel.from_pretrained(
                file.parent, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise ValueError(f"{file.parent} holds no whole VQModel ({' '.join(str(error).split())}).") from error
        check_loaded(file.parent, info)
        found = self.model.config
        sizes = {"codebook_size": found.num_vq_embeddings, "downsample": 2 ** (len(found.block_out_channels) - 1)}
        for key, value in sizes.items():
            if value != getattr(config, key):
                raise ValueError(
                    f"tokenizer.{key}={getattr(config, key)}, but the tokenizer in {file.parent} has {value}; "
                    f"set tokenizer.{key}={value}."
                )

    @torch.inference_mode()
    def encode_uint8(self, images: Tensor) -> Tensor:
        """images: (B, H, W, 3) uint8 -> tokens (B, L) int64."""
        with without_autocast(images.device.type):
            latents = self.model.encode(images.permute(0, 3, 1, 2).float() / 255).latents
            indices = self.model.quantize(latents)[2][2]
        return indices.reshape(len(images), -1)

    @torch.inference_mode()
    def decode_uint8(self, tokens: Tensor) -> Tensor:
        """tokens: (B, L) int64 -> images (B, H, W, 3) uint8."""
        count, side = len(tokens), round(tokens.shape[1] ** 0.5)
        with without_autocast(tokens.device.type):
            shape = (count, side, side, self.model.quantize.vq_embed_dim)
            codes = self.model.quantize.get_codebook_entry(tokens.flatten(), shape)
            images = self.model.decoder(self.model.post_quant_conv(codes))
        return to_uint8(images * 2 - 1)
