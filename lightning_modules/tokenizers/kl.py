"""KL-regularised autoencoders in diffusers' format, such as that of SDXL (arXiv 2307.01952): images <-> latents.

Shapes: B batch, H x W pixels, D latent channels, h = H / downsample.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_modules.checkpoints import check_loaded
from lightning_modules.images import from_uint8, to_uint8
from lightning_modules.precision import without_autocast
from lightning_modules.tokenizers.config import KLConfig


class KLAutoencoder(nn.Module):
    """diffusers' `AutoencoderKL` from a local folder; latents are the posterior's mean times the folder's scaling.

    It computes in float32 even under autocast: SDXL's decoder overflows in half precision.

    Raises:
        FileNotFoundError: no folder, or one without config.json.
        ValueError: no folder was named; its autoencoder has other sizes than the configuration says, or its weights are
            not those of its config.json, key by key.
    """

    def __init__(self, config: KLConfig):
        super().__init__()
        if not config.weights:
            raise ValueError(
                "The tokenizer kl has no weights of its own; name a folder in diffusers' format (config.json and "
                "diffusion_pytorch_model.safetensors) with tokenizer.weights=FOLDER."
            )
        from diffusers import AutoencoderKL

        folder = Path(config.weights)
        _check_sizes(folder, config)
        try:
            self.autoencoder, info = AutoencoderKL.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{folder} holds no whole AutoencoderKL ({' '.join(str(error).split())}).") from error
        check_loaded(folder, info)
        found = self.autoencoder.config
        self.scale = found.scaling_factor
        self.shift = found.shift_factor or 0.0

    @torch.inference_mode()
    def encode_uint8(self, images: Tensor) -> Tensor:
        """images: (B, H, W, 3) uint8 -> (B, D, h, w) float32, about unit variance."""
        with without_autocast(images.device.type):
            posterior = self.autoencoder.encode(from_uint8(images)).latent_dist
        return (posterior.mode() - self.shift) * self.scale

    @torch.inference_mode()
    def decode_uint8(self, latents: Tensor) -> Tensor:
        """latents: (B, D, h, w) -> images (B, H, W, 3) uint8."""
        with without_autocast(latents.device.type):
            images = self.autoencoder.decode(latents.float() / self.scale + self.shift).sample
        return to_uint8(images)


def _check_sizes(folder: Path, config: KLConfig) -> None:
    """The folder's autoencoder must have the sizes that the generator was planned with."""
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json; tokenizer.weights must be a folder in diffusers' format."
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        channels, downsample = found["latent_channels"], 2 ** (len(found["block_out_channels"]) - 1)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not describe an AutoencoderKL.") from error
    if (channels, downsample) != (config.latent_channels, config.downsample):
        raise ValueError(
            f"{folder} has {channels} latent channels and divides the side by {downsample}; set "
            f"tokenizer.latent_channels={channels} and tokenizer.downsample={downsample}."
        )
