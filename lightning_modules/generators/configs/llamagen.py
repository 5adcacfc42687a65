"""LlamaGen's configuration. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from lightning_modules.bounds import check_least, check_positive, check_share
from lightning_modules.generators.configs.base import TokenGeneratorConfig


@dataclass
class LlamaGenConfig(TokenGeneratorConfig):
    """LlamaGen (arXiv 2406.06525): the autoregressive Transformer that AiM is compared with."""

    objective: ClassVar[str] = "autoregressive"
    name: str = "llamagen"
    width: int = 768
    depth: int = 12
    heads: int = 12
    """Attention heads."""
    mlp_multiple: int = 256
    """The SwiGLU's hidden width is 8/3 of the width, rounded up to a multiple of this."""
    rope_base: float = 10_000.0
    """Base of the 2-D rotary embedding: half of a head turns with the row, half with the column."""
    prefix_rotation: Literal["identity", "zero"] = "identity"
    """What the rotary embedding does to the condition tokens: leave them alone, or multiply their queries and keys by
    zero, so that they attend and are attended to evenly (the published code)."""
    condition: Literal["class", "text"] = "class"
    """A class embedding, or a caption's projected features, in front of the image tokens."""
    dropout: float = 0.1
    """On the embeddings and on the output of every attention and MLP."""
    gradient_checkpointing: bool = False
    """Compute a layer's activations again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        check_least(self, "generator", width=1, depth=1, heads=1, mlp_multiple=1)
        if self.width % (4 * self.heads):
            raise ValueError(
                f"generator.width={self.width} is not a multiple of 4 x generator.heads={4 * self.heads}: the 2-D "
                "rotary embedding cuts every head into pairs for the row and pairs for the column."
            )
        check_positive(self, "generator", "rope_base")
        check_share(self, "generator", "dropout")

    @property
    def mlp_width(self) -> int:
        """Hidden width of the SwiGLU."""
        return -(-int(8 * self.width / 3) // self.mlp_multiple) * self.mlp_multiple
