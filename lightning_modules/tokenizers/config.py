"""Configurations of the tokenizers. Torch-free, so that a plan can hash weights without loading them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from lightning_modules.published.folders import part_weights
from lightning_modules.registry import Entry, Registry

EMBEDDED = Path(__file__).parent / "weights" / "emoji_vq.safetensors"


class _Grid:
    """What all tokenizers share: an image becomes a square grid of tokens or latents.

    Raises:
        ValueError: the image does not divide into the grid, or the network's resolutions do not come to it.
    """

    weights: str
    image_size: int
    """Side of the square images, in pixels."""
    downsample: int
    """Pixels per side that become one token or latent."""

    def __post_init__(self) -> None:
        channels = getattr(self, "channels", None)
        if channels is not None and 2 ** (len(channels) - 1) != self.downsample:
            raise ValueError(
                f"tokenizer.channels has {len(channels)} resolutions, which halve the image {len(channels) - 1} times, "
                f"but tokenizer.downsample={self.downsample}."
            )
        if self.downsample < 1 or self.image_size % self.downsample:
            raise ValueError(
                f"tokenizer.image_size={self.image_size} is not a multiple of tokenizer.downsample={self.downsample}."
            )

    @property
    def grid_size(self) -> int:
        """Side of the grid."""
        return self.image_size // self.downsample

    def weight_file(self) -> Path | None:
        """The file of weights, or None where none is named."""
        return Path(self.weights) if self.weights else None


class _Codes(_Grid):
    """A grid of codes out of a codebook."""

    codebook_size: int
    """Number of codes."""

    @property
    def vocab_size(self) -> int:
        """Number of codes."""
        return self.codebook_size


@dataclass
class EmojiVQConfig(_Codes):
    """The embedded VQ autoencoder: 32x32 pixels <-> 8x8 tokens, l2-normalised codes as in LlamaGen's VQ-16."""

    name: str = "emoji_vq"
    weights: str = "embedded"
    """`embedded`, a safetensors file, or empty: random weights, for stage-1 training."""
    image_size: int = 32
    downsample: int = 4
    codebook_size: int = 512
    code_width: int = 8
    """Width of a code."""
    channels: list[int] = field(default_factory=lambda: [32, 64, 96])
    """Width at each resolution, finest first; one halving between neighbours."""
    blocks: int = 2
    """Residual blocks per resolution (one more in the decoder)."""
    latent_width: int = 96
    """Width between the encoder or decoder and the 1x1 convolution at the codes."""
    groups: int = 8
    """Groups of every GroupNorm."""
    fingerprint: str = ""
    """sha256 of the weights, filled in when a run is resolved: it stands for `weights` in the run's identity."""

    def weight_file(self) -> Path | None:
        """The file of weights, or None for random ones."""
        return EMBEDDED if self.weights == "embedded" else Path(self.weights) if self.weights else None


@dataclass
class LlamaGenVQConfig(_Codes):
    """LlamaGen's tokenizers (arXiv 2406.06525): VQ-16 with 256, VQ-8 with 1024 tokens for 256 x 256 pixels."""

    name: str = "llamagen_vq"
    weights: str = ""
    """The published file, vq_ds16_c2i.pt or vq_ds8_c2i.pt. Needed to tokenise and to decode, not to plan."""
    image_size: int = 256
    downsample: Literal[8, 16] = 16
    codebook_size: int = 16384
    code_width: int = 8
    """Width of a code."""
    fingerprint: str = ""
    """sha256 of the weights, filled in when a run is resolved."""

    @property
    def channels(self) -> list[int]:
        """Width at each resolution, finest first."""
        return [128, 128, 256, 256, 512] if self.downsample == 16 else [128, 256, 256, 512]


@dataclass
class EmojiLatentConfig(EmojiVQConfig):
    """The embedded VQ autoencoder without its quantiser: 32x32 pixels <-> 8x8 latents of 8 channels."""

    name: str = "emoji_latent"

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.code_width

    @property
    def vocab_size(self) -> int:
        """None: latents are continuous."""
        return 0


@dataclass
class EmojiKLConfig(_Grid):
    """A small KL autoencoder of the layers of the embedded VQ autoencoder: 32x32 pixels <-> 8x8 latents."""

    name: str = "emoji_kl"
    weights: str = ""
    """final.safetensors of a run of tokenizer/emoji-kl. Needed to encode and decode, not to train it nor to plan."""
    image_size: int = 32
    downsample: int = 4
    latent_channels: int = 8
    """Channels of a latent."""
    channels: list[int] = field(default_factory=lambda: [32, 64, 96])
    """Width at each resolution, finest first; one halving between neighbours."""
    blocks: int = 2
    """Residual blocks per resolution (one more in the decoder)."""
    latent_width: int = 96
    """Width between the encoder or decoder and the 1x1 convolution at the latents."""
    groups: int = 8
    """Groups of every GroupNorm."""
    fingerprint: str = ""
    """sha256 of the weights, filled in when a run is resolved."""
    vocab_size: ClassVar[int] = 0


@dataclass
class PixelsConfig(_Grid):
    """No autoencoder: diffusion of the pixels themselves."""

    name: str = "pixels"
    image_size: int = 32
    downsample: int = 1
    """Means over squares of so many pixels a side: a data set of lower resolution."""
    latent_channels: ClassVar[int] = 3
    vocab_size: ClassVar[int] = 0

    @property
    def fingerprint(self) -> str:
        """Stands for the weights, of which there are none."""
        return f"pixels/{self.downsample}"

    def weight_file(self) -> Path | None:
        """None."""
        return None


@dataclass
class KLConfig(_Grid):
    """A KL-regularised autoencoder in diffusers' format; the defaults are SDXL's (arXiv 2307.01952) at 512 pixels."""

    name: str = "kl"
    weights: str = ""
    """Folder of config.json and diffusion_pytorch_model.safetensors. Needed to encode and decode, not to plan."""
    image_size: int = 512
    downsample: int = 8
    latent_channels: int = 4
    """Channels of a latent."""
    fingerprint: str = ""
    """sha256 of the weights, filled in when a run is resolved."""
    vocab_size: ClassVar[int] = 0

    def weight_file(self) -> Path | None:
        """The file of weights, or None."""
        return Path(self.weights) / "diffusion_pytorch_model.safetensors" if self.weights else None


@dataclass
class AmusedVQConfig(_Codes):
    """aMUSEd's tokenizer (arXiv 2401.01808): 16 pixels a side per token, 8,192 codes; diffusers' `VQModel`."""

    name: str = "amused_vq"
    weights: str = ""
    """The published folder (amused-256, amused-512, or their vqvae). Needed to tokenise and decode, not to plan."""
    image_size: int = 256
    downsample: int = 16
    codebook_size: int = 8192
    fingerprint: str = ""
    """sha256 of the weights, filled in when a run is resolved."""

    def weight_file(self) -> Path | None:
        """The file of weights, or None."""
        return part_weights(Path(self.weights), "vqvae", "tokenizer.weights=FOLDER") if self.weights else None


@dataclass
class TamingVQConfig(_Codes):
    """The VQGAN of taming-transformers (arXiv 2012.09841), trained on ImageNet: f16 with 1,024 or 16,384 codes."""

    name: str = "taming_vq"
    weights: str = ""
    """The published last.ckpt, or the folder it was downloaded to. Needed to tokenise and decode, not to plan."""
    image_size: int = 256
    downsample: int = 16
    codebook_size: int = 1024
    code_width: int = 256
    """Width of a code."""
    channels: list[int] = field(default_factory=lambda: [128, 128, 256, 256, 512])
    """Width at each resolution, finest first; one halving between neighbours."""
    fingerprint: str = ""
    """sha256 of the weights, filled in when a run is resolved."""

    def weight_file(self) -> Path | None:
        """The file of weights, or None."""
        if not self.weights:
            return None
        given = Path(self.weights)
        places = [given / folder / "last.ckpt" for folder in ("ckpts", "checkpoints", ".")]
        return next((place for place in places if place.is_file()), given)


TOKENIZERS = Registry(
    "tokenizer",
    {
        "amused_vq": Entry(AmusedVQConfig, "lightning_modules.tokenizers.amused_vq:AmusedVQ"),
        "emoji_kl": Entry(EmojiKLConfig, "lightning_modules.tokenizers.emoji_kl:EmojiKL"),
        "emoji_latent": Entry(EmojiLatentConfig, "lightning_modules.tokenizers.emoji_latent:EmojiLatent"),
        "emoji_vq": Entry(EmojiVQConfig, "lightning_modules.tokenizers.emoji_vq:EmojiVQ"),
        "kl": Entry(KLConfig, "lightning_modules.tokenizers.kl:KLAutoencoder"),
        "llamagen_vq": Entry(LlamaGenVQConfig, "lightning_modules.tokenizers.llamagen_vq:LlamaGenVQ"),
        "pixels": Entry(PixelsConfig, "lightning_modules.tokenizers.pixels:Pixels"),
        "taming_vq": Entry(TamingVQConfig, "lightning_modules.tokenizers.taming_vq:TamingVQ"),
    },
)
