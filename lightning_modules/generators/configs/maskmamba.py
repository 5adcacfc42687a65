"""MaskMamba's configuration. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass
class BiMambaV2Config:
    """The mixer `bi_mamba_v2` (MaskMamba Eq. 1) and what its text leaves open."""

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
class BiMambaConfig:
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


@dataclass
class MaskMambaConfig:
    """MaskMamba (arXiv 2409.19937) and, as `mixer=attention`, the masked Transformer it is compared with."""

    objective: ClassVar[str] = "masked"
    name: str = "maskmamba"
    vocab_size: int = 0
    grid_size: int = 0
    """Side of the token grid; L = grid_size ** 2."""
    width: int = 640
    depth: int = 20
    heads: int = 10
    """Attention heads; groups keep the count and shrink the head width."""
    mixer: Literal["bi_mamba_v2", "bi_mamba", "attention"] = "bi_mamba_v2"
    """The mixer of the non-Transformer layers M; with hybrid_scheme=uniform, of every layer."""
    hybrid_scheme: Literal["uniform", "serial_v1", "serial_v2", "group_v1", "group_v2"] = "serial_v2"
    """Section 3.2.2: serial_v1 = MSMS.., serial_v2 = M.. then S.., group_v1 = C/2 | C/2, group_v2 = 4 x C/4."""
    group_match: Literal["width", "parameters"] = "width"
    """Group schemes hold about 1/2 (v1) or 1/4 (v2) of the serial parameters at equal width; `parameters` adds layers
    until the count is as close as can be to that of serial_v2."""
    bi_mamba_v2: BiMambaV2Config = field(default_factory=BiMambaV2Config)
    bi_mamba: BiMambaConfig = field(default_factory=BiMambaConfig)
    mamba_mlp_ratio: float = 4.0
    """Hidden width of the MLP behind a Mamba mixer over the width; 0 = no MLP."""
    attention_mlp_ratio: float = 4.0
    condition: Literal["class", "text"] = "class"
    condition_position: Literal["head", "middle", "tail"] = "middle"
    num_classes: int = 0
    """Classes of the data set; 0 = take them from the data."""
    text_tokens: int = 0
    """Tokens of a caption; 0 = take them from the text encoder."""
    text_width: int = 0
    """Width of a caption's features; 0 = take it from the text encoder."""
    position_tables: Literal["separate", "shared"] = "separate"
    """One table for image and one for condition positions, so that moving the condition moves nothing else; `shared`
    indexes one table by sequence position."""
    embedding_norm: bool = True
    """LayerNorm on the embeddings, as in MaskGIT and MAGE."""
    dropout: float = 0.1
    tied_head: bool = True
    """The output projection is the token table (plus a bias per token)."""
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"generator.width={self.width} is not a multiple of generator.heads={self.heads}.")
        groups = {"group_v1": 2, "group_v2": 4}.get(self.hybrid_scheme, 1)
        if self.width % (groups * self.heads):
            raise ValueError(
                f"generator.hybrid_scheme={self.hybrid_scheme} splits width {self.width} in {groups} groups of "
                f"{self.heads} heads: the width must be a multiple of {groups * self.heads}."
            )
        if self.depth < 1 or (self.hybrid_scheme.startswith("serial") and self.depth % 2):
            raise ValueError(
                f"generator.depth={self.depth}: {self.hybrid_scheme} needs a positive"
                f"{' even' if self.hybrid_scheme.startswith('serial') else ''} number of layers."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"generator.dropout={self.dropout} must be in [0, 1).")
