"""The configurations of UViT (aMUSEd) and M-Mamba, which differ in the stack between the same two ends. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from lightning_modules.bounds import check_least, check_share
from lightning_modules.hashing import file_sha256
from lightning_modules.published.folders import part_weights

ROWS_ROUNDED_TO = 64
"""aMUSEd rounds the rows of its token table, mask included, up to a multiple of this."""


@dataclass
class MuseConfig:
    """What both share; the defaults are those of amused-256 (arXiv 2401.01808)."""

    objective: ClassVar[str] = "masked"
    condition: Literal["text"] = "text"
    """Captions alone."""
    vocab_size: int = 0
    """Codes; 0 = as the tokenizer has them."""
    grid_size: int = 0
    """Side of the token grid; L = grid_size ** 2."""
    text_tokens: int = 0
    """Tokens of a caption; 0 = take them from the text encoder."""
    text_width: int = 0
    """Width of a caption's features; 0 = take it from the text encoder."""
    pooled_width: int = 0
    """Width of the feature of a whole caption; 0 = as the text encoder has it, and where that has none, the mean over
    the caption's tokens is taken."""
    width: int = 1024
    """Width of the stack."""
    depth: int = 22
    """Layers of the stack."""
    heads: int = 16
    """Attention heads in the stack."""
    embed_width: int = 768
    """Width of the token table."""
    end_width: int = 768
    """Width of the convolutional blocks at both ends."""
    end_blocks: int = 3
    """ConvNeXt blocks at each end, every one with two cross-attentions to the text behind it."""
    end_heads: int = 12
    """Attention heads at the ends."""
    ends: Literal["attention", "conv"] = "attention"
    """As published, or without the attention of the ends: the text then enters in the stack alone."""
    resample: bool = False
    """The ends halve and double the grid, as in amused-512."""
    micro_conditions: list[float] = field(default_factory=lambda: [256, 256, 0, 0, 6])
    """Original width and height, crop corner, aesthetic score: the same for every image; empty = none."""
    micro_width: int = 256
    """Width of a micro condition's sinusoidal encoding."""
    mask_padding: bool = False
    """Leave padding out of attentions, convolutions and scans; otherwise it is read like words. aMUSEd reads CLIP's, of
    which `text_encoder.padding=encoded` keeps the states; else zeros stand there."""
    dropout: float = 0.0
    """Share of activations set to zero in training, at the ends and in every layer of the stack."""
    pretrained_ends: str = ""
    """A published aMUSEd folder to start the ends from, as the M-Mamba slides do; empty = at random."""
    pretrained_fingerprint: str = ""
    """sha256 of its weights, filled in when a run is resolved."""
    gradient_checkpointing: bool = False
    """Compute a layer's activations again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        check_least(self, "generator", width=1, depth=1, heads=1, embed_width=1, micro_width=2)
        check_least(self, "generator", end_width=1, end_blocks=1, end_heads=1)
        for heads, width in (("heads", "width"), ("end_heads", "end_width")):
            if getattr(self, width) % getattr(self, heads):
                raise ValueError(
                    f"generator.{width}={getattr(self, width)} is not a multiple of "
                    f"generator.{heads}={getattr(self, heads)}."
                )
        check_share(self, "generator", "dropout")
        if self.resample and self.grid_size % 2:
            raise ValueError(f"generator.resample=true halves the grid, but generator.grid_size={self.grid_size}.")

    @property
    def table_rows(self) -> int:
        """Rows of the token table: the codes and the mask, rounded up; the last one is the mask's."""
        return -(-(self.vocab_size + 1) // ROWS_ROUNDED_TO) * ROWS_ROUNDED_TO

    @property
    def stack_grid(self) -> int:
        """Side of the grid that the stack works on."""
        return self.grid_size // 2 if self.resample else self.grid_size

    def resolve(self) -> None:
        """Fill in the fingerprint. Raises FileNotFoundError where `pretrained_ends` names no published folder."""
        if self.pretrained_ends:
            weights = part_weights(Path(self.pretrained_ends), "transformer", "generator.pretrained_ends=FOLDER")
            self.pretrained_fingerprint = file_sha256(weights)


@dataclass
class UViTConfig(MuseConfig):
    """aMUSEd's UViT: diffusers' `UVit2DModel`, 603,537,664 parameters, 513,345,536 of them in the stack."""

    name: str = "uvit"
    ff_width: int = 2816
    """Inner width of the gated feed-forward layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "generator", ff_width=1)
