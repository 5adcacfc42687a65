"""The VQGAN of taming-transformers (arXiv 2012.09841) from its published checkpoint, a file of Lightning.

The network is the one that LlamaGen took over (`vq.VQAutoencoder`), with other names for its parts; codes are compared
by Euclidean distance. All sizes show in the weights, so the model.yaml that comes with them is not needed.
"""

from __future__ import annotations

import re

from torch import Tensor

from lightning_modules.checkpoints import check_keys, read_weights
from lightning_modules.tokenizers.config import TamingVQConfig
from lightning_modules.tokenizers.vq import PublishedVQ

TRAINING_ONLY = "loss."
"""Prefix of the discriminator and the perceptual network, which the checkpoint holds too."""
PARTS = (
    (r"^encoder\.down\.(\d+)\.block\.", r"encoder.conv_blocks.\1.res."),
    (r"^encoder\.down\.", "encoder.conv_blocks."),
    (r"\.mid\.block_1\.", ".mid.0."),
    (r"\.mid\.attn_1\.", ".mid.1."),
    (r"\.mid\.block_2\.", ".mid.2."),
)
"""Published name -> name here; the decoder's levels, which are counted from the finest, not from the first, aside."""


class TamingVQ(PublishedVQ):
    """The published tokenizer.

    Raises:
        FileNotFoundError, ValueError: no weights named, absent, damaged, or of another network.
    """

    def __init__(self, config: TamingVQConfig):
        file = config.weight_file()
        if file is None:
            raise ValueError(
                "The tokenizer taming_vq has no weights of its own; name the published file with "
                "tokenizer.weights=last.ckpt."
            )
        if not file.is_file():
            raise FileNotFoundError(f"Tokenizer weights {file} not found; name the file with tokenizer.weights=FILE.")
        super().__init__(config, unit_codes=False)
        found = renamed(read_weights(file), len(config.channels))
        codes = found.get("quantize.embedding.weight")
        if codes is not None and len(codes) != config.codebook_size:
            raise ValueError(
                f"{file} has {len(codes):,} codes, tokenizer.codebook_size={config.codebook_size}; "
                f"set tokenizer.codebook_size={len(codes)}."
            )
        check_keys(file, found, self.state_dict())
        self.load_state_dict(found)


def renamed(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """A published state, but for what only training needs, under the names of `VQAutoencoder`.

    Args:
        levels: number of resolutions.
    """
    result = {}
    for key, value in state.items():
        if key.startswith(TRAINING_ONLY):
            continue
        for pattern, name in PARTS:
            key = re.sub(pattern, name, key)
        if match := re.match(r"decoder\.up\.(\d+)\.(block\.)?(.*)", key):
            level, block, rest = match.groups()
            key = f"decoder.conv_blocks.{levels - 1 - int(level)}.{'res.' if block else ''}{rest}"
        result[key] = value
    return result
