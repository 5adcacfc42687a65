"""Token store: tokenised images in a folder of memory-mapped numpy files.

    tokens.npy           (N, V, L) uint16   V views of an image (as is, mirrored, crops), L tokens each
    labels.npy           (N,) int32
    captions.bin         UTF-8, one caption after the other, no separator
    caption_offsets.npy  (N + 1,) uint64; caption i is captions.bin[offsets[i]:offsets[i + 1]]
    meta.json            format, version, shapes, vocabulary, origin of the tokens, size and sha256 of each file

Readable without this project:

    tokens = np.load("tokens.npy", mmap_mode="r")[i, 0]
    label = np.load("labels.npy", mmap_mode="r")[i]
    o = np.load("caption_offsets.npy"); caption = open("captions.bin", "rb").read()[o[i]:o[i + 1]].decode()

A store is complete or absent: it is written beside its place and moved there in one step.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lightning_modules.hashing import sha256_of

FORMAT = "ablate-token-store"
VERSION = 1
FILES = ("tokens.npy", "labels.npy", "captions.bin", "caption_offsets.npy")


@dataclass(frozen=True)
class StoreMeta:
    """What a store holds.

    Attributes:
        count, views, length: N, V, L.
        vocab_size: tokens are in [0, vocab_size).
        tokenizer: fingerprint of the tokenizer's weights.
        source: what was tokenised (data set, split, fingerprint, crops, ...), free-form but JSON.
    """

    count: int
    views: int
    length: int
    vocab_size: int
    tokenizer: str
    source: dict[str, Any]


def write_store(
    folder: Path,
    tokens: np.ndarray,
    labels: np.ndarray,
    captions: Sequence[str],
    *,
    vocab_size: int,
    tokenizer: str,
    source: dict[str, Any],
) -> None:
    """Write a store, atomically. If another process finishes the same folder first, its store stays.

    Args:
        tokens: (N, V, L) integers in [0, vocab_size).
        labels: (N,) integers.
        captions: N strings.

    Raises:
        ValueError: arrays that do not fit each other, or tokens out of range.
    """
    meta = _check(tokens, labels, captions, vocab_size, tokenizer, source)
    encoded = [caption.encode() for caption in captions]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.uint64)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        np.save(temporary / "tokens.npy", tokens.astype(np.uint16))
        np.save(temporary / "labels.npy", labels.astype(np.int32))
        np.save(temporary / "caption_offsets.npy", offsets)
        (temporary / "captions.bin").write_bytes(b"".join(encoded))
        files = {n: {"bytes": (temporary / n).stat().st_size, "sha256": sha256_of(temporary / n)} for n in FILES}
        content = {"format": FORMAT, "version": VERSION, **asdict(meta), "files": files}
        (temporary / "meta.json").write_text(json.dumps(content, indent=1, ensure_ascii=False))
        for name in (*FILES, "meta.json"):
            _flush(temporary / name)
        temporary.chmod(0o755)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not (folder / "meta.json").is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class TokenStore:
    """Read access to a store. Cheap to open and to send to worker processes: files are mapped on first use.

    Args:
        folder: the store.
        verify: read everything and compare checksums (otherwise only sizes, which finds truncation).

    Raises:
        FileNotFoundError: no such store.
        ValueError: a damaged, truncated or foreign one.
    """

    def __init__(self, folder: Path, verify: bool = False):
        self.folder = Path(folder)
        self.meta, files = _read_meta(self.folder)
        for name, expected in files.items():
            self._check_file(name, expected, verify)
        if self.tokens.shape != (self.meta.count, self.meta.views, self.meta.length) or self.tokens.dtype != np.uint16:
            raise self._damaged("tokens.npy does not have the shape that meta.json says")
        self.fingerprint = hashlib.sha256(json.dumps([files, asdict(self.meta)], sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return self.meta.count

    def __getstate__(self) -> dict[str, Any]:
        mapped = ("tokens", "labels", "_offsets", "_captions")
        return {key: value for key, value in self.__dict__.items() if key not in mapped}

    @cached_property
    def tokens(self) -> np.ndarray:
        """(N, V, L) uint16, memory-mapped."""
        return self._map("tokens.npy")

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int32, memory-mapped."""
        return self._map("labels.npy")

    def caption(self, index: int) -> str:
        """Caption of image `index`."""
        start, end = self._offsets[index : index + 2].tolist()
        return self._captions[start:end].decode()

    @cached_property
    def _offsets(self) -> np.ndarray:
        return self._map("caption_offsets.npy")

    @cached_property
    def _captions(self) -> bytes | mmap.mmap:
        with open(self.folder / "captions.bin", "rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:  # an empty file cannot be mapped
                return b""
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def _map(self, name: str) -> np.ndarray:
        try:
            return np.load(self.folder / name, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise self._damaged(f"{name} is not a numpy file ({error})") from error

    def _check_file(self, name: str, expected: dict[str, Any], verify: bool) -> None:
        path = self.folder / name
        if not path.is_file():
            raise self._damaged(f"{name} is missing")
        if (size := path.stat().st_size) != expected["bytes"]:
            raise self._damaged(f"{name} has {size} bytes instead of {expected['bytes']}")
        if verify and sha256_of(path) != expected["sha256"]:
            raise self._damaged(f"the checksum of {name} is wrong")

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"The token store {self.folder} is damaged: {what}; delete the folder and tokenize again.")


def _check(
    tokens: np.ndarray, labels: np.ndarray, captions: Sequence[str], vocab_size: int, tokenizer: str, source: dict
) -> StoreMeta:
    if tokens.ndim != 3 or not len(tokens) == len(labels) == len(captions):
        raise ValueError(
            f"A token store needs (N, V, L) tokens, N labels and N captions, not {tokens.shape}, "
            f"{len(labels)} and {len(captions)}."
        )
    if not 0 < vocab_size <= 2**16:
        raise ValueError(f"A token store holds 16-bit tokens; a vocabulary of {vocab_size} does not fit.")
    if tokens.size and not (0 <= tokens.min() and tokens.max() < vocab_size):
        raise ValueError(f"Tokens in [{tokens.min()}, {tokens.max()}] exceed the vocabulary of {vocab_size}.")
    return StoreMeta(*tokens.shape, vocab_size, tokenizer, source)


def _read_meta(folder: Path) -> tuple[StoreMeta, dict[str, dict[str, Any]]]:
    path = folder / "meta.json"
    if not path.is_file():
        raise FileNotFoundError(f"No token store at {folder}: it has no meta.json.")
    try:
        content = json.loads(path.read_text())
        if content.pop("format", None) != FORMAT:
            raise ValueError(f"{path} does not describe a token store.")
        if (version := content.pop("version", None)) != VERSION:
            raise ValueError(f"The token store {folder} has format version {version}, this code reads {VERSION}.")
        files = content.pop("files")
        if set(files) != set(FILES):
            raise KeyError("files")
        return StoreMeta(**content), files
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(
            f"The token store {folder} is damaged: meta.json is not valid; delete the folder and tokenize again."
        ) from error


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
