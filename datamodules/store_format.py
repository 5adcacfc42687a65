"""What the folder of a store contains, and its meta.json. See `datamodules.store` for the layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = "ablate-token-store"
VERSION = 1
FILES = ("tokens.npy", "labels.npy", "captions.bin", "caption_offsets.npy")
"""Of every store of tokens. A store of latents has latents.npy instead of tokens.npy."""
OPTIONAL_FILES = ("caption_index.npy", "keys.bin", "key_offsets.npy")


@dataclass(frozen=True)
class StoreMeta:
    """What a store holds.

    Attributes:
        count, views, length: N, V, L; for latents L = h * w.
        vocab_size: tokens are in [0, vocab_size); 0 for latents.
        tokenizer: fingerprint of the tokenizer's weights.
        source: what was tokenised (data set, split, fingerprint, crops, ...), free-form but JSON.
        latent_shape: [C, h, w] of a store of latents, else empty.
    """

    count: int
    views: int
    length: int
    vocab_size: int
    tokenizer: str
    source: dict[str, Any]
    latent_shape: tuple[int, ...] = ()

    @property
    def codes_file(self) -> str:
        """Name of the file with tokens or latents."""
        return "latents.npy" if self.latent_shape else "tokens.npy"

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Shape of the array in that file."""
        return (self.count, self.views, *(self.latent_shape or (self.length,)))

    @property
    def codes_dtype(self) -> str:
        """Type of the array in that file."""
        return "<f2" if self.latent_shape else "<u2"


def read_meta(folder: Path) -> tuple[StoreMeta, dict[str, dict[str, Any]]]:
    """The meta data of a store, and {file: {"bytes", "sha256"}}.

    Raises:
        FileNotFoundError: no store there.
        ValueError: a damaged or foreign meta.json.
    """
    path = folder / "meta.json"
    if not path.is_file():
        raise FileNotFoundError(f"No token store at {folder}: it has no meta.json.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format", None) != FORMAT:
            raise ValueError(f"{path} does not describe a token store.")
        if (version := content.pop("version", None)) != VERSION:
            raise ValueError(f"The token store {folder} has format version {version}, this code reads {VERSION}.")
        files = content.pop("files")
        meta = StoreMeta(**content | {"latent_shape": tuple(content.get("latent_shape", ()))})
        if set(files) - set(OPTIONAL_FILES) != {meta.codes_file, *FILES[1:]}:
            raise KeyError("files")
        return meta, files
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(
            f"The token store {folder} is damaged: meta.json is not valid; delete the folder and tokenize again."
        ) from error
