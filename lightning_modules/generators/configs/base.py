"""What the configurations of all generators of tokens under a class or a caption share. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass
class TokenGeneratorConfig:
    """Its sizes follow from other parts of the run."""

    name: str = ""
    vocab_size: int = 0
    """Codes; 0 = as the tokenizer has them."""
    grid_size: int = 0
    """Side of the token grid, L = grid_size ** 2 in raster order; 0 = as the tokenizer has it."""
    width: int = 512
    """Model width C."""
    depth: int = 12
    """Layers."""
    condition: Literal["class", "text"] = "class"
    """What images are asked for by: a class label, or a caption."""
    num_classes: int = 0
    """Classes of the data set; 0 = take them from the data."""
    text_tokens: int = 0
    """Tokens of a caption; 0 = take them from the text encoder."""
    text_width: int = 0
    """Width of a caption's features; 0 = take it from the text encoder."""


@dataclass
class MaskedGeneratorConfig(TokenGeneratorConfig):
    """Of masked tokens: (tokens, some hidden) -> logits of all."""

    objective: ClassVar[str] = "masked"
