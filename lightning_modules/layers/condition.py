"""Conditions as tokens of the generator's sequence: a class as one token, a caption as its text features, projected.

Shapes: B batch, T condition tokens (class: 1), C width, E text feature width.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lightning_modules.conditions import Condition, TextFeatures
from lightning_modules.layers.linear import Linear


class Context(NamedTuple):
    """An embedded condition, computed once and used in every sampling step."""

    embedding: Tensor  # (B, T, C)
    mask: Tensor | None  # (B, T) bool, False at padding; None: no padding


class ClassCondition(nn.Module):
    """Class labels -> one token; the last row of the table is the null class."""

    tokens = 1

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, width)

    def forward(self, labels: Tensor, drop: Tensor) -> Context:
        """labels: (B,) int64; drop: (B,) bool, True where the condition is left out."""
        return Context(self.table(torch.where(drop, self.num_classes, labels))[:, None], None)


class TextCondition(nn.Module):
    """Features of a frozen text encoder -> T tokens: Linear, GELU, Linear; one learned null caption.

    Padding is zero after the projection, and masked as a key in attention.
    """

    def __init__(self, tokens: int, text_width: int, width: int):
        super().__init__()
        self.tokens = tokens
        self.null = nn.Parameter(torch.randn(tokens, text_width) * text_width**-0.5)
        self.project = nn.Sequential(
            Linear(text_width, width, bias=False), nn.GELU(approximate="tanh"), Linear(width, width, bias=False)
        )

    def forward(self, text: TextFeatures, drop: Tensor) -> Context:
        """text: of the captions; drop: (B,) bool, True where the caption is left out."""
        features, mask, _ = text
        features = torch.where(drop[:, None, None], self.null.to(features.dtype), features)
        mask = mask | drop[:, None]
        return Context(self.project(features) * mask[..., None], mask)


class Conditioned(Protocol):
    """What a generator's configuration says about its condition."""

    condition: Literal["class", "text"]
    num_classes: int
    text_tokens: int
    text_width: int
    width: int


def condition_tokens(config: Conditioned) -> ClassCondition | TextCondition:
    """The embedding that a generator's configuration asks for."""
    if config.condition == "class":
        return ClassCondition(config.num_classes, config.width)
    return TextCondition(config.text_tokens, config.text_width, config.width)


def example_condition(config: Conditioned) -> Condition:
    """Label 0, or a blank caption: one sample to count operations with."""
    if config.condition == "class":
        return torch.zeros(1, dtype=torch.long)
    features = torch.zeros(1, config.text_tokens, config.text_width)
    return TextFeatures(features, torch.ones(features.shape[:2], dtype=torch.bool))
