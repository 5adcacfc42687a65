"""The settings of the mixers, and those by name that a generator may choose among. Torch-free.

A mixer by name is a module (B, L, C) -> (B, L, C), built as `Mixer(width, settings, scan)` with scan "bidirectional",
"forward" or "reverse": the groups of a hybrid scheme give each direction channels of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lightning_modules.bounds import check_least
from lightning_modules.registry import Entry, Registry


class MixerConfig:
    """Base of the settings of a mixer."""

    inner_width: ClassVar[str] = "expand"
    """The setting that makes the mixer wider inside, in widths of the model."""


@dataclass
class BiMambaV2Config(MixerConfig):
    """The mixer `bi_mamba_v2` (MaskMamba Eq. 1) and what its text leaves open."""

    inner_width: ClassVar[str] = "branch_ratio"
    d_state: int = 16
    """SSM state size N per channel."""
    d_conv: int = 3
    """Kernel length of the short depthwise convolutions; odd where `conv` is standard."""
    conv: Literal["standard", "causal", "none"] = "standard"
    """Symmetric zero-padded, causal, or no short convolution."""
    merge: Literal["concat", "multiply"] = "concat"
    """How the SSM branch and the symmetric branch z are joined before the output projection."""
    branch_ratio: float = 0.5
    """Width of each branch over the model width (Eq. 1: C/2)."""
    z_conv: bool = True
    """The symmetric branch has a convolution of its own (Eq. 1)."""
    share_ssm: bool = False
    """Both scan directions share x_proj, dt_proj, A and D."""
    divide_out: bool = False
    """Halve the sum of the two directions (Vim's published models do; Eq. 1 does not)."""

    def __post_init__(self) -> None:
        _check_mamba("bi_mamba_v2", self.d_state, self.d_conv, self.branch_ratio)
        if self.conv == "standard" and self.d_conv % 2 == 0:
            raise ValueError(
                f"bi_mamba_v2.d_conv={self.d_conv} is even, so a standard (symmetric) convolution would be lopsided; "
                "take an odd kernel such as 3, or bi_mamba_v2.conv=causal."
            )


@dataclass
class BiMambaConfig(MixerConfig):
    """The mixer `bi_mamba`: Vision Mamba's bidirectional Mamba (arXiv 2401.09417, Algorithm 1)."""

    d_state: int = 16
    """SSM state size N per channel."""
    d_conv: int = 4
    """Kernel length of the short depthwise convolutions."""
    expand: float = 2.0
    """Inner width over the model width."""
    weight_sharing: Literal["v1", "v2"] = "v2"
    """What the directions share: v1 everything but A, v2 the projections in and out and the gate."""
    divide_out: bool = True
    """Halve the sum of the two directions, as Vim's published models do."""

    def __post_init__(self) -> None:
        _check_mamba("bi_mamba", self.d_state, self.d_conv, self.expand)


def _check_mamba(mixer: str, d_state: int, d_conv: int, ratio: float) -> None:
    if d_state < 1 or d_conv < 1 or ratio <= 0:
        raise ValueError(
            f"{mixer}: d_state={d_state} and d_conv={d_conv} must be at least 1, the width ratio {ratio} positive."
        )


@dataclass
class Mamba2Config:
    """The mixer `mamba2` (arXiv 2405.21060, section 7), with the defaults of its reference implementation."""

    d_state: int = 128
    """SSM states N per channel, shared by all heads."""
    d_conv: int = 4
    """Kernel length of the causal depthwise convolution over x, B and C."""
    expand: int = 2
    """Inner width over the model width."""
    head_width: int = 64
    """Channels P of a head; decay and step size are one number per head."""

    def __post_init__(self) -> None:
        check_least(self, "mamba2", d_state=1, d_conv=2, expand=1, head_width=1)

    def heads(self, width: int) -> int:
        """Heads of a mixer of this model width. Raises ValueError where they do not come out even."""
        if width * self.expand % self.head_width:
            raise ValueError(
                f"mamba2.head_width={self.head_width} does not divide the inner width {width} x {self.expand}."
            )
        return width * self.expand // self.head_width


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
    """SSM state size N per channel."""
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


MIXERS = Registry(
    "mixer",
    {
        "bi_mamba_v2": Entry(BiMambaV2Config, "lightning_modules.layers.bi_mamba_v2:BiMambaV2"),
        "bi_mamba": Entry(BiMambaConfig, "lightning_modules.layers.bi_mamba:BiMamba"),
    },
)
MixerSettings: Any = make_dataclass(
    "MixerSettings",
    [(name, entry.config, field(default_factory=entry.config)) for name, entry in MIXERS.entries.items()],
)
"""Base of a generator's configuration: the settings of every mixer under the mixer's name."""
if TYPE_CHECKING:
    MixerName = str
else:
    MixerName = Literal["attention", *MIXERS.names()]
