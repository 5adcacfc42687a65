"""A small KL-regularised autoencoder (latent diffusion, arXiv 2112.10752, section 3.1) for images of 32x32 pixels.

Its layers are those of the VQ autoencoder without the quantiser. `ablate train tokenizer/emoji-kl` trains it.

Shapes: B batch, H x W pixels, D latent channels, h = H / downsample.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.checkpoints import load_safetensors
from lightning_modules.images import from_uint8, to_uint8
from lightning_modules.tokenizers.config import EmojiKLConfig
from lightning_modules.tokenizers.vq import Decoder, Encoder

LOG_VARIANCE = (-30.0, 20.0)
"""Limits of the posterior's log variance, as in latent diffusion."""


class Posterior(NamedTuple):
    """A normal distribution of every latent, each (B, D, h, w)."""

    mean: Tensor
    log_variance: Tensor

    def draw(self) -> Tensor:
        """One sample, differentiable in mean and variance."""
        return self.mean + torch.randn_like(self.mean) * (self.log_variance / 2).exp()

    @property
    def divergence(self) -> Tensor:
        """KL divergence from the standard normal distribution, in nats per latent, scalar."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).mean()


class EmojiKL(nn.Module):
    """uint8 images <-> latents (B, D, h, w): means of the posterior times `scale`, about unit variance.

    Raises:
        FileNotFoundError, ValueError: weights that are absent, damaged, or of another architecture.
    """

    scale: Tensor
    """One over the latents' standard deviation, which training measures; 0 before."""

    def __init__(self, config: EmojiKLConfig):
        super().__init__()
        self.encoder = Encoder(config.channels, config.blocks, config.latent_width, config.groups)
        self.quant_conv = nn.Conv2d(config.latent_width, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_width, 1)
        self.decoder = Decoder(config.channels, config.blocks, config.latent_width, config.groups)
        self.register_buffer("scale", torch.zeros(()))
        if (file := config.weight_file()) is not None:
            self.load_state_dict(load_safetensors(file, self.state_dict()))
        self.to(memory_format=torch.channels_last)

    def posterior(self, images: Tensor) -> Posterior:
        """images: (B, 3, H, W) in [-1, 1] -> the distribution of their latents."""
        mean, log_variance = self.quant_conv(self.encoder(images)).float().chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(*LOG_VARIANCE))

    def decode(self, latents: Tensor) -> Tensor:
        """latents: (B, D, h, w), not scaled -> images (B, 3, H, W), about [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(latents))

    def forward(self, images: Tensor) -> tuple[Tensor, Posterior]:
        """images: (B, 3, H, W) in [-1, 1] -> reconstruction of a drawn latent, and its distribution."""
        posterior = self.posterior(images)
        return self.decode(posterior.draw()), posterior

    @torch.inference_mode()
    def encode_uint8(self, images: Tensor) -> Tensor:
        """images: (B, H, W, 3) uint8 -> (B, D, h, w) float32."""
        self._check_trained()
        return self.posterior(from_uint8(images)).mean * self.scale

    @torch.inference_mode()
    def decode_uint8(self, latents: Tensor) -> Tensor:
        """latents: (B, D, h, w) -> images (B, H, W, 3) uint8."""
        self._check_trained()
        return to_uint8(self.decode(latents / self.scale))

    def _check_trained(self) -> None:
        if not self.scale:
            raise ValueError(
                "The tokenizer emoji_kl has no weights of its own: train it with `ablate train tokenizer/emoji-kl` and "
                "name checkpoints/final.safetensors of that run with tokenizer.weights=FILE."
            )
