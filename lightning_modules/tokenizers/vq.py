"""VQ autoencoder of VQGAN shape (arXiv 2012.09841): the original's, LlamaGen's and the embedded emoji tokenizer.

Parameter names are those of the published LlamaGen checkpoints, so that these load key by key.

Shapes: B batch, H x W pixels, h x w tokens (h = H / downsample), Z latent width, E code width, V codebook size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.images import from_uint8, to_uint8
from lightning_modules.precision import exact_float32, without_autocast
from lightning_modules.tokenizers.config import LlamaGenVQConfig, TamingVQConfig

Resample = Literal["down", "up"]


class Quantized(NamedTuple):
    """What the quantiser returns: straight-through codes, token indices, and the codebook losses."""

    codes: Tensor  # (B, E, h, w)
    indices: Tensor  # (B, h, w) int64
    codebook_loss: Tensor
    commitment_loss: Tensor


class ResBlock(nn.Module):
    """Pre-activation residual block: (GroupNorm, SiLU, conv) twice."""

    def __init__(self, c_in: int, c_out: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=1e-6)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=1e-6)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions, residual."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halve the resolution: pad right and bottom by one, stride-2 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h / 2, w / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the resolution: nearest neighbour, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, each with attention behind it where asked for, then a change of size."""

    def __init__(self, c_in: int, c_out: int, blocks: int, groups: int, attention: bool, resample: Resample | None):
        super().__init__()
        self.res = nn.ModuleList(ResBlock(c_in if i == 0 else c_out, c_out, groups) for i in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(c_out, groups) for _ in range(blocks if attention else 0))
        self.downsample = Downsample(c_out) if resample == "down" else None
        self.upsample = Upsample(c_out) if resample == "up" else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h, w), or of half or twice the side."""
        for i, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        x = x if self.downsample is None else self.downsample(x)
        return x if self.upsample is None else self.upsample(x)


def _middle(channels: int, groups: int) -> nn.ModuleList:
    return nn.ModuleList(
        [ResBlock(channels, channels, groups), AttnBlock(channels, groups), ResBlock(channels, channels, groups)]
    )


class Encoder(nn.Module):
    """Pixels -> latents."""

    def __init__(self, channels: Sequence[int], blocks: int, latent_width: int, groups: int):
        super().__init__()
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        widths = [channels[0], *channels]
        self.conv_blocks = nn.ModuleList(
            Level(widths[i], widths[i + 1], blocks, groups, i == last, None if i == last else "down")
            for i in range(len(channels))
        )
        self.mid = _middle(channels[-1], groups)
        self.norm_out = nn.GroupNorm(groups, channels[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(channels[-1], latent_width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, Z, h, w)."""
        x = self.conv_in(x)
        for block in [*self.conv_blocks, *self.mid]:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Latents -> pixels, about [-1, 1], not clamped. One block more per level."""

    def __init__(self, channels: Sequence[int], blocks: int, latent_width: int, groups: int):
        super().__init__()
        widths = [channels[-1], *reversed(channels)]
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(latent_width, channels[-1], 3, padding=1)
        self.mid = _middle(channels[-1], groups)
        self.conv_blocks = nn.ModuleList(
            Level(widths[i], widths[i + 1], blocks + 1, groups, i == 0, None if i == last else "up")
            for i in range(len(channels))
        )
        self.norm_out = nn.GroupNorm(groups, channels[0], eps=1e-6)
        self.conv_out = nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Z, h, w) -> (B, 3, H, W)."""
        x = self.conv_in(x)
        for block in [*self.mid, *self.conv_blocks]:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Quantizer(nn.Module):
    """Nearest code: by cosine, latents and codes l2-normalised (ViT-VQGAN, arXiv 2110.04627, section 3.2), or plainly.

    Args:
        codebook_size, code_width: V, E.
        unit: compare unit vectors; else the vectors as they are, by Euclidean distance.
    """

    def __init__(self, codebook_size: int, code_width: int, unit: bool = True):
        super().__init__()
        self.unit = unit
        self.embedding = nn.Embedding(codebook_size, code_width)
        with torch.no_grad():
            self.embedding.weight.copy_(F.normalize(torch.randn_like(self.embedding.weight), dim=-1))

    def codes(self) -> Tensor:
        """The codebook as it is compared and decoded, (V, E)."""
        return F.normalize(self.embedding.weight, dim=-1) if self.unit else self.embedding.weight

    def forward(self, z: Tensor) -> Quantized:
        """z: (B, E, h, w) latents of any length -> straight-through codes.

        In float32 also under autocast: less precision takes a neighbour for the nearest code.
        """
        z, codes = z.float(), self.codes()
        if self.unit:
            z = F.normalize(z, dim=1)
        with without_autocast(z.device.type), exact_float32(z.device):
            nearness = torch.einsum("behw,ve->bhwv", z, codes)
            if not self.unit:  # |z - e|^2 is least where z e - |e|^2 / 2 is most
                nearness -= codes.square().sum(-1) / 2
            indices = nearness.argmax(-1)
        q = F.embedding(indices, codes).permute(0, 3, 1, 2)
        codebook_loss = (q - z.detach()).square().mean()
        commitment_loss = (z - q.detach()).square().mean()
        return Quantized(z + (q - z).detach(), indices, codebook_loss, commitment_loss)


class VQAutoencoder(nn.Module):
    """Image <-> tokens, in the precision of autocast where that is on.

    Args:
        channels: width at each resolution, finest first.
        blocks: residual blocks per resolution in the encoder.
        latent_width: Z, before the 1x1 convolution to the codes.
        codebook_size, code_width: V, E.
        groups: groups of every GroupNorm.
        unit_codes: compare codes as unit vectors.
    """

    def __init__(
        self,
        channels: Sequence[int],
        blocks: int,
        latent_width: int,
        codebook_size: int,
        code_width: int,
        groups: int,
        unit_codes: bool = True,
    ):
        super().__init__()
        self.encoder = Encoder(channels, blocks, latent_width, groups)
        self.quant_conv = nn.Conv2d(latent_width, code_width, 1)
        self.quantize = Quantizer(codebook_size, code_width, unit_codes)
        self.post_quant_conv = nn.Conv2d(code_width, latent_width, 1)
        self.decoder = Decoder(channels, blocks, latent_width, groups)

    def latents(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [-1, 1] -> (B, E, h, w), not yet normalised."""
        return self.quant_conv(self.encoder(images))

    def forward(self, images: Tensor) -> tuple[Tensor, Quantized]:
        """images: (B, 3, H, W) in [-1, 1] -> reconstruction (B, 3, H, W) and what the quantiser did."""
        quantized = self.quantize(self.latents(images))
        return self.decoder(self.post_quant_conv(quantized.codes)), quantized

    def encode(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [-1, 1] -> tokens (B, h * w) int64, row by row."""
        return self.quantize(self.latents(images)).indices.flatten(1)

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens: (B, h * w) int64 -> images (B, 3, H, W), about [-1, 1], not clamped."""
        side = round(tokens.shape[1] ** 0.5)
        codes = F.embedding(tokens, self.quantize.codes()).transpose(1, 2)
        return self.decoder(self.post_quant_conv(codes.reshape(*codes.shape[:2], side, side)))

    @torch.inference_mode()
    def encode_uint8(self, images: Tensor) -> Tensor:
        """images: (B, H, W, 3) uint8 -> tokens (B, L) int64."""
        return self.encode(from_uint8(images))

    @torch.inference_mode()
    def decode_uint8(self, tokens: Tensor) -> Tensor:
        """tokens: (B, L) int64 -> images (B, H, W, 3) uint8."""
        return to_uint8(self.decode(tokens))


class PublishedVQ(VQAutoencoder):
    """One with published weights: images <-> tokens in float32 also under autocast, as the published code decodes.

    Args:
        config: the sizes that they do not have in common.
        unit_codes: compare codes as unit vectors.
    """

    blocks, latent_width, groups = 2, 256, 32

    def __init__(self, config: LlamaGenVQConfig | TamingVQConfig, unit_codes: bool = True):
        codes = (config.codebook_size, config.code_width)
        super().__init__(config.channels, self.blocks, self.latent_width, *codes, self.groups, unit_codes)

    @torch.inference_mode()
    def encode_uint8(self, images: Tensor) -> Tensor:
        """images: (B, H, W, 3) uint8 -> tokens (B, L) int64."""
        with without_autocast(images.device.type):
            return super().encode_uint8(images)

    @torch.inference_mode()
    def decode_uint8(self, tokens: Tensor) -> Tensor:
        """tokens: (B, L) int64 -> images (B, H, W, 3) uint8."""
        with without_autocast(tokens.device.type):
            return super().decode_uint8(tokens)
