"""Features of captions without padding, and the interface of what makes them.

Shapes: N captions, S tokens of all captions together, T most tokens of one, E feature width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from lightning_modules.conditions import TextFeatures


@dataclass(frozen=True)
class RaggedText:
    """Features of N captions, only real tokens, one caption after the other.

    Attributes:
        features: (S, E) float16.
        lengths: (N,) int64, at least 1 each; they add up to S.
        pooled: (N, P) float16, or None.
    """

    features: np.ndarray
    lengths: np.ndarray
    pooled: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, tokens: int) -> TextFeatures:
        """As a condition on the CPU, padded with zeros to T = `tokens`."""
        ends = np.cumsum(self.lengths)
        rows = [self.features[end - length : end] for end, length in zip(ends, self.lengths, strict=True)]
        return pad(rows, tokens, self.pooled)


class TextEncoder(Protocol):
    """A frozen text encoder. Weights are loaded with the first caption that needs them."""

    config: Any

    def encode(self, captions: Sequence[str]) -> RaggedText:
        """Features of any number of captions; longer ones are cut to `config.text_tokens`."""

    def release(self) -> None:
        """Give the memory of the weights back."""


def pad(rows: Sequence[np.ndarray], tokens: int, pooled: np.ndarray | None) -> TextFeatures:
    """B arrays (length, E) and (B, P) -> features (B, T, E) float32, zero at padding, mask (B, T), pooled (B, P)."""
    features = torch.zeros(len(rows), tokens, rows[0].shape[1])
    mask = torch.zeros(len(rows), tokens, dtype=torch.bool)
    for i, row in enumerate(rows):
        features[i, : len(row)] = torch.from_numpy(np.asarray(row, dtype=np.float32))
        mask[i, : len(row)] = True
    return TextFeatures(features, mask, None if pooled is None else torch.from_numpy(np.asarray(pooled, np.float32)))


def concatenate(parts: Sequence[RaggedText]) -> RaggedText:
    """Features of the captions of all parts, in order."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return RaggedText(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate(pooled) if pooled else None,
    )
