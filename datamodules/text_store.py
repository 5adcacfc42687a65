"""Text store: the features of captions in a folder of memory-mapped files, real tokens only.

    features.bin   (S, E) float16, one caption's tokens after the other's, no padding
    offsets.npy    (N + 1,) int64; caption i has the rows offsets[i]:offsets[i + 1]
    pooled.npy     (N, P) float16; (N, 0) from encoders without a pooled feature
    meta.json      format, version, shapes, identity of the encoder and of the captions, size and sha256 of each file

Readable without this project:

    f = np.memmap("features.bin", np.float16, "r").reshape(-1, E)        # E is "width" in meta.json
    o = np.load("offsets.npy", mmap_mode="r")
    caption_i = f[o[i]:o[i + 1]]

Padded to T tokens the same features would take N x T rows; `TextMeta.saved_bytes` says what leaving the padding out
saves.

Shapes: N captions, S tokens of all captions together, T most tokens of one, E and P feature widths, B batch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import atomic_write, check_files, work_lock
from datamodules.store_folder import META, MappedStore, StoreKind, commit_folder
from lightning_modules.conditions import TextFeatures
from lightning_modules.hashing import sha256_of
from lightning_modules.text_encoders.ragged import RaggedText, TextEncoder, pad

log = logging.getLogger(__name__)
TEXT_STORE = StoreKind("text", "encode", version=1)
FILES = ("features.bin", "offsets.npy", "pooled.npy")
CHUNK = 4096
"""Captions that are encoded and written at a time."""


@dataclass(frozen=True)
class TextMeta:
    """What a store holds.

    Attributes:
        count, total: N, S.
        tokens: T; no caption has more, and batches are padded to it.
        width, pooled_width: E, P.
        encoder: identifies the encoder and its settings.
        captions: sha256 of the captions in their order.
    """

    count: int
    total: int
    tokens: int
    width: int
    pooled_width: int
    encoder: str
    captions: str

    @property
    def saved_bytes(self) -> int:
        """Bytes that padding every caption to T would take on top."""
        return (self.count * self.tokens - self.total) * self.width * np.dtype(np.float16).itemsize


def captions_sha256(captions: Iterable[str]) -> str:
    """Identifies captions in their order; lengths go in, so that no two lists are alike."""
    digest = hashlib.sha256()
    for caption in captions:
        content = caption.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def cached_text_store(captions: Sequence[str], encoder: TextEncoder, cache_dir: Path, digest: str = "") -> TextStore:
    """The store of these captions under `cache_dir`/text, made if it does not exist (safe when several start at once).

    A long encoding that was killed goes on where it was: chunks are kept beside the store until that is complete.

    Args:
        digest: their `captions_sha256`, where that is known: of millions it takes seconds.

    Raises:
        ValueError: it is damaged, the encoder cannot encode these captions, or their features do not fit on the disk.
    """
    identity, digest = encoder.config.features_id, digest or captions_sha256(captions)
    folder = text_store_folder(encoder, digest, cache_dir)
    if not folder.exists():
        with work_lock(folder.with_name(f".{folder.name}.lock")):
            if not folder.exists():
                log.info("Encoding %d captions with %s into %s", len(captions), encoder.config.name, folder)
                parts = folder.with_name(f".{folder.name}.parts")
                chunks = _encoded(captions, encoder, parts)
                write_text_store(folder, chunks, tokens=encoder.config.text_tokens, encoder=identity, captions=digest)
                encoder.release()
                shutil.rmtree(parts, ignore_errors=True)
    return TextStore(folder)


def _encoded(captions: Sequence[str], encoder: TextEncoder, parts: Path) -> Iterator[RaggedText]:
    """Features chunk by chunk, out of the folder `parts` as far as they are there."""
    began = time.monotonic()
    for start in range(0, len(captions), CHUNK):
        path = parts / f"{start:09d}.npz"
        chunk = _read_part(path)
        if chunk is None:
            chunk = encoder.encode(captions[start : start + CHUNK])
            if len(captions) > CHUNK:
                arrays = {key: value for key, value in vars(chunk).items() if value is not None}
                atomic_write(path, partial(np.savez, **arrays))
                seconds = time.monotonic() - began
                log.info("%d of %d captions encoded, %.0f s", start + len(chunk), len(captions), seconds)
        if not start and len(captions) > CHUNK:
            _check_room(parts, chunk.features.nbytes * len(captions) // len(chunk))
        yield chunk


def _check_room(parts: Path, expected: int) -> None:
    """Raise ValueError where a store of about so many bytes cannot be made: its chunks lie beside it meanwhile."""
    needed = max(expected, 2 * expected - sum(path.stat().st_size for path in parts.iterdir()))
    free = shutil.disk_usage(parts).free
    log.info("The features will take about %.1f GiB, and twice that while they are made", expected / 2**30)
    if free < needed:
        raise ValueError(
            f"The features of these captions take about {expected / 2**30:.1f} GiB and twice that while they are made, "
            f"of which {needed / 2**30:.1f} GiB are missing still; {free / 2**30:.1f} GiB are free at {parts.parent}. "
            "Free some space there, and the same command goes on."
        )


def _read_part(path: Path) -> RaggedText | None:
    """A chunk as it was kept, or None where there is none or a damaged one."""
    try:
        with np.load(path) as file:
            return RaggedText(**file)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def text_store_folder(encoder: TextEncoder, captions: str, cache_dir: Path) -> Path:
    """Where the store of the captions with this checksum belongs."""
    key = f"{encoder.config.features_id} {captions}"
    return cache_dir / "text" / f"{encoder.config.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def write_text_store(
    folder: Path, chunks: Iterable[RaggedText], *, tokens: int, encoder: str, captions: str
) -> TextMeta:
    """Write a store chunk by chunk, atomically. If another process finishes the same folder first, its store stays.

    Args:
        chunks: features of successive captions, of the same widths throughout.
        tokens: T.
        encoder: identity of the encoder, `features_id` of its configuration.
        captions: `captions_sha256` of all captions.

    Raises:
        ValueError: no captions, a caption without or with more than T tokens, or features that are not finite.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        width = 0
        lengths: list[np.ndarray] = []
        pooled: list[np.ndarray] = []
        with open(temporary / "features.bin", "wb") as stream:
            for chunk in chunks:
                _check(chunk, tokens, sum(map(len, lengths)))
                width = chunk.features.shape[1]
                stream.write(np.ascontiguousarray(chunk.features, dtype=np.float16).data)
                lengths.append(chunk.lengths)
                pooled.append(chunk.pooled if chunk.pooled is not None else np.empty((len(chunk), 0), np.float16))
        if not lengths:
            raise ValueError("A text store needs at least one caption.")
        offsets = np.cumsum([0, *np.concatenate(lengths).tolist()], dtype=np.int64)
        np.save(temporary / "offsets.npy", offsets)
        np.save(temporary / "pooled.npy", np.concatenate(pooled).astype(np.float16))
        meta = TextMeta(
            len(offsets) - 1, int(offsets[-1]), tokens, width, pooled[0].shape[1], encoder=encoder, captions=captions
        )
        files = {n: {"bytes": (temporary / n).stat().st_size, "sha256": sha256_of(temporary / n)} for n in FILES}
        content = {**TEXT_STORE.header, **asdict(meta), "files": files}
        (temporary / META).write_text(json.dumps({**content, "saved_bytes": meta.saved_bytes}, indent=1))
        commit_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    log.info("%s: %d tokens; %d bytes saved by leaving padding out", folder, meta.total, meta.saved_bytes)
    return meta


class TextStore(MappedStore):
    """Read access to a store of captions' features.

    Args:
        folder: the store.
        verify: read everything and compare checksums (otherwise only sizes, which finds truncation).

    Raises:
        FileNotFoundError: no such store.
        ValueError: a damaged, truncated or foreign one.
    """

    kind = TEXT_STORE

    def __init__(self, folder: Path, verify: bool = False):
        self.folder = Path(folder)
        self.meta, files = _read_meta(self.folder)
        if wrong := check_files(self.folder, files, verify):
            raise self._damaged(wrong)
        if files["features.bin"]["bytes"] != self.meta.total * self.meta.width * 2:
            raise self._damaged("features.bin does not have the shape that meta.json says")

    def __len__(self) -> int:
        return self.meta.count

    def batch(self, rows: Sequence[int] | np.ndarray) -> TextFeatures:
        """Captions `rows`, (B,), as a condition: (B, T, E) float32 zero at padding, (B, T) bool, (B, P) or None."""
        parts = [self._features[self._offsets[row] : self._offsets[row + 1]] for row in rows]
        pooled = self._pooled[np.asarray(rows)] if self.meta.pooled_width else None
        return pad(parts, self.meta.tokens, pooled)

    @cached_property
    def _features(self) -> np.ndarray:
        return np.memmap(self.folder / "features.bin", np.float16, "r").reshape(-1, self.meta.width)

    @cached_property
    def _offsets(self) -> np.ndarray:
        return self._map("offsets.npy")

    @cached_property
    def _pooled(self) -> np.ndarray:
        return self._map("pooled.npy", mapped=self.meta.pooled_width > 0)


def _check(chunk: RaggedText, tokens: int, done: int) -> None:
    lengths = chunk.lengths
    if not len(lengths) or lengths.min() < 1 or lengths.max() > tokens or lengths.sum() != len(chunk.features):
        raise ValueError(f"Every caption needs 1 to {tokens} tokens, and features for each; see those from {done} on.")
    for values in (chunk.features, chunk.pooled):
        if values is not None and not np.isfinite(values.astype(np.float16)).all():
            raise ValueError(
                f"The text encoder gave features that are not finite in 16 bits, among the captions from {done} on; "
                "try text_encoder.dtype=bf16 or fp32."
            )


def _read_meta(folder: Path) -> tuple[TextMeta, dict[str, dict[str, Any]]]:
    def parse(content: dict[str, Any]) -> tuple[TextMeta, dict[str, dict[str, Any]]]:
        content.pop("saved_bytes")
        files = content.pop("files")
        if set(files) != set(FILES):
            raise KeyError("files")
        return TextMeta(**content), files

    return TEXT_STORE.read(folder, parse)
