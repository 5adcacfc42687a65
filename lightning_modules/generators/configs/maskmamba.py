"""MaskMamba's configuration. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_modules.bounds import check_least, check_share
from lightning_modules.generators.configs.base import MaskedGeneratorConfig
from lightning_modules.layers.config import MixerName, MixerSettings


@dataclass
class MaskMambaConfig(MixerSettings, MaskedGeneratorConfig):
    """MaskMamba (arXiv 2409.19937) and, as `mixer=attention`, the masked Transformer it is compared with."""

    name: str = "maskmamba"
    width: int = 640
    depth: int = 20
    heads: int = 10
    """Attention heads; groups keep the count and shrink the head width."""
    mixer: MixerName = "bi_mamba_v2"
    """Of the non-Transformer layers M; with hybrid_scheme=uniform, of every layer."""
    hybrid_scheme: Literal["uniform", "serial_v1", "serial_v2", "group_v1", "group_v2"] = "serial_v2"
    """Section 3.2.2: serial_v1 = MSMS.., serial_v2 = M.. then S.., group_v1 = C/2 | C/2, group_v2 = 4 x C/4."""
    group_match: Literal["width", "parameters"] = "width"
    """Group schemes hold about 1/2 (v1) or 1/4 (v2) of the serial parameters at equal width; `parameters` adds layers
    until the count is as close as can be to that of serial_v2."""
    mamba_mlp_ratio: float = 4.0
    """Hidden width of the MLP behind a Mamba mixer over the width; 0 = no MLP."""
    attention_mlp_ratio: float = 4.0
    """Hidden width of the MLP behind an attention over the width; 0 = no MLP."""
    condition_position: Literal["head", "middle", "tail"] = "middle"
    """Where the condition's tokens stand: before the image's, between their two halves, or behind them."""
    position_tables: Literal["separate", "shared"] = "separate"
    """One table for image and one for condition positions, so that moving the condition moves nothing else; `shared`
    indexes one table by sequence position."""
    mask_padding: bool = False
    """Leave a caption's padding out of the mixers' convolutions and states, as attention always does; otherwise they
    read it as the embedding of its position."""
    embedding_norm: bool = True
    """LayerNorm on the embeddings, as in MaskGIT and MAGE."""
    dropout: float = 0.1
    """Share of activations set to zero in training: of the embeddings, and of the output of every mixer and MLP."""
    tied_head: bool = True
    """The output projection is the token table (plus a bias per token)."""
    gradient_checkpointing: bool = False
    """Compute a layer's activations again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        check_least(self, "generator", width=1, depth=1, heads=1, mamba_mlp_ratio=0, attention_mlp_ratio=0)
        if self.width % self.heads:
            raise ValueError(f"generator.width={self.width} is not a multiple of generator.heads={self.heads}.")
        groups = {"group_v1": 2, "group_v2": 4}.get(self.hybrid_scheme, 1)
        if self.width % (groups * self.heads):
            raise ValueError(
                f"generator.hybrid_scheme={self.hybrid_scheme} splits width {self.width} in {groups} groups of "
                f"{self.heads} heads: the width must be a multiple of {groups * self.heads}."
            )
        if self.hybrid_scheme.startswith("serial") and self.depth % 2:
            raise ValueError(f"generator.depth={self.depth}: {self.hybrid_scheme} needs an even number of layers.")
        check_share(self, "generator", "dropout")
