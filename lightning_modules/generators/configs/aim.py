"""AiM's configuration. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from lightning_modules.bounds import check_least, check_share
from lightning_modules.generators.configs.base import TokenGeneratorConfig
from lightning_modules.layers.config import Mamba2Config


@dataclass
class AiMConfig(TokenGeneratorConfig):
    """AiM (arXiv 2408.12245): autoregressive image tokens through Mamba-2 layers with adaptive layer norm."""

    objective: ClassVar[str] = "autoregressive"
    name: str = "aim"
    width: int = 768
    depth: int = 24
    mamba2: Mamba2Config = field(default_factory=Mamba2Config)
    adaln: Literal["none", "single", "group", "per_layer"] = "group"
    """Who computes the layers' shift, scale and gate from the condition: nobody, one projection for all layers, one for
    each of `adaln_groups` groups (all plus a table per layer), or every layer its own projection (no tables)."""
    adaln_groups: int = 4
    """G of adaln=group; it need not divide the depth."""
    adaln_layout: Literal["interleaved", "contiguous"] = "interleaved"
    """Layer i belongs to group i mod G, as in the published code, or to the group of its depth, i G / depth."""
    adaln_init: Literal["zero", "random"] = "zero"
    """Zero: every layer starts as the identity (published for per_layer). Random: small gates (published for group)."""
    final_adaln: bool = True
    """Shift and scale in front of the output projection; the published `adaln=none` keeps it."""
    position_embedding: bool = True
    """Learned positions on the image tokens; the condition has none."""
    condition: Literal["class", "text"] = "class"
    """Class: its embedding is the start token and the input of the adaLN. Text: the caption's projected features are a
    prefix, their mean is the input of the adaLN."""
    caption_prefix: Literal["tokens", "mean"] = "tokens"
    """What of a caption stands in front of the image: all its tokens, or their mean alone, as a class would."""
    dropout: float = 0.0
    """On the embeddings and on every mixer's output."""
    tied_head: bool = True
    """The output projection is the token table."""
    gradient_checkpointing: bool = False
    """Compute a layer's activations again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        check_least(self, "generator", width=1, depth=1)
        self.mamba2.heads(self.width)
        if not 1 <= self.groups <= self.depth:
            raise ValueError(
                f"generator.adaln_groups={self.adaln_groups} must lie in 1 .. {self.depth}, the number of layers."
            )
        check_share(self, "generator", "dropout")

    @property
    def groups(self) -> int:
        """Projections that the layers share: G, whatever the kind of adaLN."""
        return {"group": self.adaln_groups, "per_layer": self.depth}.get(self.adaln, 1)
