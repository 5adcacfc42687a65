"""What a generator is conditioned on: class labels, or the features of captions.

Shapes: B batch, T text tokens, E width of the text encoder's features, P width of its pooled feature.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class TextFeatures(NamedTuple):
    """Captions as a frozen text encoder sees them."""

    features: Tensor  # (B, T, E), zero at padding
    mask: Tensor  # (B, T) bool, False at padding
    pooled: Tensor | None = None  # (B, P), of encoders that give one feature for the whole caption


Condition = Tensor | TextFeatures
"""Labels (B,) int64, or text features."""


def condition_of(batch: dict[str, Any]) -> Condition:
    """The condition in a training batch: "text" (`TextFeatures`) where there is one, else "label" (B,)."""
    return TextFeatures(*batch["text"]) if "text" in batch else batch["label"]


def repeat_condition(condition: Condition) -> Condition:
    """The condition of a batch that stands twice behind itself, (2B, ..): both halves of classifier-free guidance."""
    if isinstance(condition, Tensor):
        return _twice(condition)
    features, mask, pooled = condition
    return TextFeatures(_twice(features), _twice(mask), None if pooled is None else _twice(pooled))


def _twice(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor])
