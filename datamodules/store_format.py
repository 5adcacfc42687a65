"""What the folder of a store contains, and its meta.json. See `datamodules.store` for the layout."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules.store_folder import StoreKind

TOKEN_STORE = StoreKind("token", "tokenize", version=1)
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

    def parse(content: dict[str, Any]) -> tuple[StoreMeta, dict[str, dict[str, Any]]]:
        files = content.pop("files")
        meta = StoreMeta(**content | {"latent_shape": tuple(content.get("latent_shape", ()))})
        if set(files) - set(OPTIONAL_FILES) != {meta.codes_file, *FILES[1:]}:
            raise KeyError("files")
        return meta, files

    return TOKEN_STORE.read(folder, parse)


def codes_shape(tokenizer: Any) -> tuple[int, ...]:
    """Shape of an image's codes by the configuration of a tokenizer: (L,) tokens, or (C, h, w) latents."""
    grid = tokenizer.grid_size
    return (grid * grid,) if tokenizer.vocab_size else (tokenizer.latent_channels, grid, grid)


def tokenizer_settings(tokenizer: Any) -> dict[str, Any]:
    """The configuration of a tokenizer without its name and weights, as stores keep it."""
    return {key: value for key, value in asdict(tokenizer).items() if key not in ("name", "weights", "fingerprint")}


def check_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Whether the codes of a store are those of a tokenizer.

    Args:
        tokenizer: its configuration; where no weights are named (its fingerprint is empty), they are not compared.
            Neither are settings that the store does not name.

    Raises:
        FileNotFoundError, ValueError: as `read_meta`; other weights, other settings, or codes of another shape.
    """
    meta, _ = read_meta(folder)
    name = meta.source.get("tokenizer", tokenizer.name)
    if name != tokenizer.name or meta.tokenizer != (tokenizer.fingerprint or meta.tokenizer):
        raise ValueError(
            f"{folder} was made with the tokenizer {name} {meta.tokenizer[:12]}, not with {tokenizer.name} "
            f"{tokenizer.fingerprint[:12]}; name that one and its file, tokenizer.weights=FILE, or tokenize again."
        )
    settings = tokenizer_settings(tokenizer)
    for key, stored in meta.source.get("tokenizer_settings", {}).items():
        if key in settings and settings[key] != stored:
            raise ValueError(
                f"{folder} was made with tokenizer.{key}={json.dumps(stored)}, not {json.dumps(settings[key])}; set "
                "it as it was, or tokenize again."
            )
    shape = meta.latent_shape or (meta.length,)
    if (shape, meta.vocab_size) != (codes_shape(tokenizer), tokenizer.vocab_size):
        raise ValueError(
            f"{folder} holds {_described(shape, meta.vocab_size)} an image, but {tokenizer.name} makes "
            f"{_described(codes_shape(tokenizer), tokenizer.vocab_size)}; tokenize again."
        )


def _described(shape: Sequence[int], vocab_size: int) -> str:
    return f"{math.prod(shape)} tokens of {vocab_size}" if vocab_size else f"latents {'x'.join(map(str, shape))}"
