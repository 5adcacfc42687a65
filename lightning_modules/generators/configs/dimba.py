"""Dimba's configuration. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from lightning_modules.bounds import check_least, check_positive
from lightning_modules.layers.config import BiMambaConfig


@dataclass
class DimbaConfig:
    """Dimba (Transformer-Mamba diffusion) and, at attention_mamba_ratio=1:0, PixArt (arXiv 2310.00426)."""

    objective: ClassVar[str] = "diffusion"
    name: str = "dimba"
    latent_channels: int = 0
    """Channels of a latent; 0 = take them from the tokenizer."""
    grid_size: int = 0
    """Side of a latent; 0 = take it from the tokenizer."""
    patch_size: int = 2
    """Side of a patch: L = (grid_size / patch_size) ** 2 positions."""
    width: int = 1152
    """Model width C."""
    depth: int = 28
    """Transformer blocks; Mamba blocks come on top, as many as the ratio says."""
    heads: int = 16
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Hidden width of the Transformer blocks' MLPs over the width."""
    attention_mamba_ratio: str = "1:1"
    """A:M, M Mamba blocks for every A Transformer blocks: 1:K or K:1 for any K; 1:0 is the pure Transformer. Blocks
    that are left over when A does not divide the depth go without."""
    mamba_position: Literal["after", "before"] = "after"
    """Mamba blocks stand after their Transformer blocks (official code) or before them (the paper's text)."""
    mamba_group_place: Literal["edge", "second"] = "edge"
    """In groups of A >= 3 Transformer blocks: at the group's edge, or after its second block (official code)."""
    mamba_adaln: bool = False
    """Mamba blocks have a shift, scale and gate of their own (paper; 9 vectors a pair) or plain RMSNorm (code; 6)."""
    mamba_residual: Literal["standard", "official"] = "standard"
    """x + Mamba(norm(x)), or what the official code does: a Mamba block's output replaces x, and the sum of all inputs
    to Mamba blocks is only what the next Mamba block reads."""
    bi_mamba: BiMambaConfig = field(default_factory=lambda: BiMambaConfig(divide_out=False))
    adaln: Literal["single", "group", "per_layer"] = "single"
    """Projections of the timestep to modulation vectors: one for all blocks (PixArt's adaLN-single), `adaln_groups` of
    them, each shared by consecutive blocks, or one for every block (DiT). Each block adds a table of its own."""
    adaln_groups: int = 2
    """Groups G of adaln=group."""
    condition: Literal["class", "text"] = "text"
    """Captions enter by cross-attention; a class is added to the timestep (DiT), and there is no cross-attention."""
    num_classes: int = 0
    """Classes of the data set; 0 = take them from the data."""
    text_tokens: int = 0
    """Tokens of a caption; 0 = take them from the text encoder."""
    text_width: int = 0
    """Width of a caption's features; 0 = take it from the text encoder."""
    null_mask: Literal["full", "prompt"] = "full"
    """Tokens of the null caption that are seen: all, or as many as the caption in its place has (official code)."""
    pe_interpolation: float = 1.0
    """Position coordinates are divided by this: fine-tuning at twice the resolution with 2 reuses known positions."""
    prediction: Literal["noise", "velocity", "flow"] = "noise"
    """What the output estimates: the noise e, the velocity a e - s x_0 (arXiv 2202.00512), or e - x_0 on the straight
    path x_t = (1 - t) x_0 + t e (flow matching, arXiv 2209.03003)."""
    learned_variance: bool = True
    """Twice the channels out: the second half interpolates the log variance of the reverse step (IDDPM)."""
    init: Literal["standard", "official"] = "standard"
    """PixArt's start, where SSMs and convolutions keep Mamba's own; or as the official code: the bias of dt 0, so
    dt = 0.69 throughout, and the last matrices of Mamba blocks and MLPs smaller by the root of the Mamba depth."""
    gradient_checkpointing: bool = False
    """Compute a block's activations again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        check_least(self, "generator", patch_size=1, width=1, depth=1, heads=1)
        check_least(self, "generator", mlp_ratio=1 / self.width)
        if not re.fullmatch(r"[1-9]\d*:\d+", self.attention_mamba_ratio):
            raise ValueError(
                f"generator.attention_mamba_ratio={self.attention_mamba_ratio} is not of the form A:M, "
                "such as 1:1, 2:1, 1:3, or 1:0 for no Mamba."
            )
        if self.width % self.heads or self.width % 4:
            raise ValueError(
                f"generator.width={self.width} must be a multiple of 4 and of generator.heads={self.heads}."
            )
        if self.grid_size % self.patch_size:
            raise ValueError(
                f"generator.grid_size={self.grid_size} is not a multiple of generator.patch_size={self.patch_size}."
            )
        if self.adaln == "group" and not 1 <= self.adaln_groups <= self.depth:
            raise ValueError(f"generator.adaln_groups={self.adaln_groups} must be in 1 .. depth={self.depth}.")
        if self.ratio[1] and self.ratio[0] > self.depth:
            raise ValueError(
                f"generator.attention_mamba_ratio={self.attention_mamba_ratio} asks for {self.ratio[0]} Transformer "
                f"blocks per group; generator.depth={self.depth} has fewer."
            )
        if self.mamba_group_place == "second" and self.mamba_position == "before" and self.ratio[0] > 2:
            raise ValueError(
                "generator.mamba_group_place=second is a place after Transformer blocks; with "
                "generator.mamba_position=before take mamba_group_place=edge."
            )
        if self.prediction == "flow" and self.learned_variance:
            raise ValueError(
                "generator.prediction=flow is deterministic; set generator.learned_variance=false with it."
            )
        check_positive(self, "generator", "pe_interpolation")

    @property
    def ratio(self) -> tuple[int, int]:
        """(A, M): Transformer blocks per group and Mamba blocks per group."""
        attention, _, mamba = self.attention_mamba_ratio.partition(":")
        return int(attention), int(mamba)

    @property
    def mamba_depth(self) -> int:
        """Number of Mamba blocks."""
        attention, mamba = self.ratio
        return self.depth // attention * mamba

    def adaln_projections(self, blocks: int) -> int:
        """Projections that `blocks` blocks of one kind share."""
        return {"single": 1, "group": min(self.adaln_groups, blocks), "per_layer": blocks}[self.adaln]

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.latent_channels * (2 if self.learned_variance else 1)

    def block_order(self) -> list[tuple[str, int]]:
        """("transformer", i) and ("mamba", j) in the order in which they are applied."""
        attention, mamba = self.ratio
        order: list[tuple[str, int]] = []
        for start in range(0, self.depth, attention):
            group = [("transformer", i) for i in range(start, min(start + attention, self.depth))]
            if len(group) == attention:
                first = start // attention * mamba
                place = min(2, attention) if self.mamba_group_place == "second" else attention
                place = place if self.mamba_position == "after" else 0
                group[place:place] = [("mamba", first + j) for j in range(mamba)]
            order += group
        return order
