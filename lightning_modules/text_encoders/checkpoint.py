"""Folders of published encoders, as Hugging Face transformers and diffusers write them: what is in them. Torch-free."""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZERS = (("tokenizer.json",), ("spiece.model",), ("vocab.json", "merges.txt"))
"""Files that a tokenizer is made of, the first set that is there."""
BLOCK, BLOCKS = 256 * 1024, 64
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def model_folder(model: str) -> Path | None:
    """The folder that `model` names, or None for a name on the Hugging Face hub.

    Raises:
        FileNotFoundError: neither, or a folder without a model.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (weights_in(folder) / "config.json").is_file():
            raise FileNotFoundError(f"text_encoder.model={model} holds no model: there is no config.json in it.")
        return folder
    if folder.is_absolute() or not HUB_NAME.fullmatch(model):
        raise FileNotFoundError(
            f"text_encoder.model={model} is not there; name the folder of the encoder, with config.json and weights."
        )
    return None


def weights_in(folder: Path) -> Path:
    """The folder itself, or `text_encoder` in the folder of a diffusers pipeline."""
    return folder / "text_encoder" if (folder / "text_encoder").is_dir() else folder


def tokenizer_in(folder: Path) -> Path:
    """The folder itself, or `tokenizer` in the folder of a diffusers pipeline."""
    return folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder


def settings_of(folder: Path) -> dict[str, Any]:
    """What config.json says; of a model of text and images (CLIP), its text half.

    Raises:
        ValueError: it is damaged.
    """
    path = weights_in(folder) / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        return {**settings, **settings.get("text_config", {})}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged: it is not valid JSON.") from error


def weights_fingerprint(folder: Path) -> str:
    """Hex sha256 that identifies weights and tokenizer, wherever they lie.

    Of a large file its size and 64 blocks spread over it stand for the whole: the 19 GB of a T5-XXL would take
    minutes to read at every plan, and trainings that differ do so in every tensor.

    Raises:
        FileNotFoundError: no weights, or no tokenizer.
    """
    digest = hashlib.sha256()
    for path in [*_weight_files(weights_in(folder)), *_tokenizer_files(tokenizer_in(folder))]:
        status = path.stat()
        digest.update(_sampled_sha256(path, status.st_size, status.st_mtime_ns).encode())
    return digest.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    for name in WEIGHTS:
        if (index := folder / f"{name}.index.json").is_file():
            return [
                folder / shard
                for shard in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            ]
        if (folder / name).is_file():
            return [folder / name]
    raise FileNotFoundError(f"No weights in {folder}: expected {' or '.join(WEIGHTS)}, or their shards.")


def _tokenizer_files(folder: Path) -> list[Path]:
    for names in TOKENIZERS:
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    expected = ", or ".join(" and ".join(names) for names in TOKENIZERS)
    raise FileNotFoundError(f"No tokenizer in {folder}: expected {expected}.")


@lru_cache
def _sampled_sha256(path: Path, size: int, modified_ns: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as stream:
        if size <= BLOCK * BLOCKS:
            digest.update(stream.read())
        else:
            for i in range(BLOCKS):
                stream.seek(i * (size - BLOCK) // (BLOCKS - 1))
                digest.update(stream.read(BLOCK))
    return digest.hexdigest()
