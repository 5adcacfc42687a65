"""LlamaGen's VQ-16 and VQ-8 (arXiv 2406.06525, section 2.1), from the published files of weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lightning_modules.checkpoints import check_keys, read_part
from lightning_modules.tokenizers.config import LlamaGenVQConfig
from lightning_modules.tokenizers.vq import PublishedVQ

PARTS = ("ema", "model", "state_dict")
"""Where a file may hold the weights. A checkpoint of a training has the averaged ones too, which the official
reconstruction code prefers."""
TRAINING_ONLY = ("quantize.codebook_used",)
"""Buffers of the official training code that the network does not need."""


class LlamaGenVQ(PublishedVQ):
    """The published tokenizer.

    Raises:
        FileNotFoundError, ValueError: no weights named, absent, damaged, or of another network.
    """

    def __init__(self, config: LlamaGenVQConfig):
        file = config.weight_file()
        if file is None:
            raise ValueError(
                f"The tokenizer {config.name} has no weights of its own; name the published file with "
                "tokenizer.weights=vq_ds16_c2i.pt."
            )
        super().__init__(config)
        self.load_state_dict(read_published(file, self.state_dict()))


def layout(config: LlamaGenVQConfig) -> dict[str, Tensor]:
    """Keys and shapes of a published file (tensors without storage), but for `TRAINING_ONLY`."""
    with torch.device("meta"):
        return PublishedVQ(config).state_dict()


def read_published(file: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read a file of weights, every key checked. Raises FileNotFoundError or ValueError as `read_part` does."""
    if not file.is_file():
        raise FileNotFoundError(f"Tokenizer weights {file} not found; name a file with tokenizer.weights=FILE.")
    found = {key: value for key, value in read_part(file, PARTS)[1].items() if key not in TRAINING_ONLY}
    check_keys(file, found, expected)
    return found
