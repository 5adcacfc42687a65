"""LlamaGen's VQ-16 and VQ-8 (arXiv 2406.06525, section 2.1), from the published files of weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from lightning_modules.checkpoints import check_keys
from lightning_modules.tokenizers.config import LlamaGenVQConfig
from lightning_modules.tokenizers.vq import VQAutoencoder

GROUPS, LATENT_WIDTH, BLOCKS = 32, 256, 2
TRAINING_ONLY = ("quantize.codebook_used",)
"""Buffers of the official training code that the network does not need."""


class LlamaGenVQ(VQAutoencoder):
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
        super().__init__(config.channels, BLOCKS, LATENT_WIDTH, config.codebook_size, config.code_width, GROUPS)
        self.load_state_dict(read_published(file, self.state_dict()))


def read_published(file: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read a LlamaGen file: a torch archive with the weights under "model" (as released) or bare, every key checked."""
    if not file.is_file():
        raise FileNotFoundError(f"Tokenizer weights {file} not found; name a file with tokenizer.weights=FILE.")
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{file} is damaged or not a torch file ({type(error).__name__}).") from error
    if isinstance(found, dict) and "model" in found:
        found = found["model"]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{file} holds no state dictionary, neither bare nor under 'model'.")
    found = {key: value for key, value in found.items() if key not in TRAINING_ONLY}
    check_keys(file, found, expected)
    return found
