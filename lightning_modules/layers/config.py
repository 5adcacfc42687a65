"""The mixers that a generator may choose among, by name, and their settings. Torch-free.

A mixer is a module (B, L, C) -> (B, L, C), built as `Mixer(width, settings, scan)` with scan "bidirectional", "forward"
or "reverse": the groups of a hybrid scheme give each direction channels of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Any, ClassVar, Literal

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
    d_conv: int = 4
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
