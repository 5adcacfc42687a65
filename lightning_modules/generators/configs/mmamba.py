"""M-Mamba's configuration, with a switch for everything its slides leave open. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lightning_modules.generators.configs.muse import MuseConfig


@dataclass
class CrossScanConfig:
    """The mixer `cross_scan`: VMamba's SS2D (arXiv 2401.10166) with text in its sequences (M-Mamba, slide 11)."""

    directions: Literal[1, 2, 4] = 4
    """Scans of the image: along rows; along rows both ways; along rows and columns both ways."""
    text: Literal["prefix", "suffix", "both_ends", "none"] = "prefix"
    """Where the scans meet the text: before the image, in every direction (slide 11; such words never see the image);
    behind it, so that the backward scans begin with the words; or, a copy each, at both ends of every direction."""
    text_merge: Literal["mean", "first", "linear"] = "mean"
    """How the text outputs of the directions become one; the image's are summed. (A sum would be the mean: the norm
    behind takes every factor out.)"""
    gate: bool = False
    """What the image reads of the words is scaled by a gate per position (slide 38)."""
    share_ssm: bool = False
    """All directions share x_proj, dt_proj, A and D."""
    conv: Literal["depthwise_2d", "causal_1d", "none"] = "depthwise_2d"
    """3 x 3 on the image, as in VMamba; 4 taps along every sequence, words included, as in Mamba; or none."""
    d_state: int = 16
    expand: float = 2.0
    """Inner width over the width of the stack."""

    def __post_init__(self) -> None:
        if self.d_state < 1 or self.expand <= 0:
            raise ValueError(
                f"cross_scan: d_state={self.d_state} must be at least 1 and expand={self.expand} positive."
            )
        if self.gate and self.text != "prefix":
            raise ValueError(
                f"cross_scan.gate=true needs the words before the image: cross_scan.text=prefix, not {self.text}."
            )
        if self.text == "suffix" and self.directions == 1:
            raise ValueError(
                "cross_scan.text=suffix with directions=1 shows the image no word; "
                "take directions=2 or 4, or cross_scan.text=prefix."
            )


@dataclass
class MMambaConfig(MuseConfig):
    """M-Mamba: UViT with a stack of cross-scan layers; 448,014,336 parameters in 22 of them."""

    name: str = "mmamba"
    cross_scan: CrossScanConfig = field(default_factory=CrossScanConfig)
    cross_attention: bool = False
    """A cross-attention to the words behind every mixer (slide 32), as in UViT."""
    text_update: bool = True
    """The words change from layer to layer; false: every layer gets the words of the first."""
    text_mlp: bool = True
    """The MLP works on the words as well."""
    adaln: bool = True
    """Pooled text and micro conditions scale and shift the normalised inputs of every layer."""
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cross_scan.text == "none" and not self.cross_attention and self.ends == "conv":
            raise ValueError(
                "cross_scan.text=none, cross_attention=false and ends=conv leave the generator without its words; "
                "set one of them otherwise."
            )
