"""Token store: tokenised images in a folder of memory-mapped numpy files.

    tokens.npy           (N, V, L) uint16   V views of an image (as is, mirrored, crops), L tokens each
    latents.npy          (N, V, C, h, w) float16, instead of tokens.npy where the tokenizer makes latents
    labels.npy           (N,) int32
    captions.bin         UTF-8, one caption after the other, no separator
    caption_offsets.npy  (M + 1,) uint64; caption j is captions.bin[offsets[j]:offsets[j + 1]]
    caption_index.npy    (N + 1,) uint64, where an image may have several captions or none: image i has captions
                         index[i] to index[i + 1] - 1; without this file image i has caption i, and M = N
    keys.bin, key_offsets.npy   names of the images, laid out as the captions (optional)
    meta.json            format, version, shapes, vocabulary, origin of the tokens, size and sha256 of each file

Readable without this project:

    tokens = np.load("tokens.npy", mmap_mode="r")[i, 0]
    label = np.load("labels.npy", mmap_mode="r")[i]
    o = np.load("caption_offsets.npy"); caption = open("captions.bin", "rb").read()[o[i]:o[i + 1]].decode()
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np

from datamodules.files import check_files
from datamodules.store_folder import MappedStore
from datamodules.store_format import TOKEN_STORE, StoreMeta, read_meta
from datamodules.store_writer import StoreWriter


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
    """Write a store that fits into memory. If another process finishes the same folder first, its store stays.

    Args:
        tokens: (N, V, L) integers in [0, vocab_size), or (N, V, C, h, w) floating-point latents.
        labels: (N,) integers.
        captions: N strings.

    Raises:
        ValueError: arrays that do not fit each other, or tokens out of range.
    """
    latents = tokens.ndim == 5
    if tokens.ndim not in (3, 5) or not len(tokens) == len(labels) == len(captions):
        raise ValueError(
            f"A token store needs (N, V, L) tokens, N labels and N captions, not {tokens.shape}, "
            f"{len(labels)} and {len(captions)}."
        )
    count, views, *shape = tokens.shape
    length = shape[1] * shape[2] if latents else shape[0]
    meta = StoreMeta(count, views, length, vocab_size, tokenizer, source, tuple(shape) if latents else ())
    with StoreWriter(folder, meta) as writer:
        writer.append(tokens, labels, [[caption] for caption in captions])


class Captions(Sequence[str]):
    """The captions of a store, each read when it is asked for: millions of strings would take half a gigabyte.

    Args:
        content: of captions.bin.
        offsets: (M + 1,) of caption_offsets.npy.
    """

    BLOCK = 1 << 16

    def __init__(self, content: bytes | mmap.mmap, offsets: np.ndarray):
        self._content, self._offsets = content, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, which: int) -> str: ...
    @overload
    def __getitem__(self, which: slice) -> list[str]: ...
    def __getitem__(self, which: int | slice) -> str | list[str]:
        rows = range(len(self))[which]
        if isinstance(rows, int):
            return self._texts(rows, rows + 1)[0]
        return self._texts(rows.start, rows.stop) if rows.step == 1 else [self[row] for row in rows]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), self.BLOCK):
            yield from self._texts(start, min(start + self.BLOCK, len(self)))

    def _texts(self, start: int, stop: int) -> list[str]:
        ends = self._offsets[start : stop + 1].tolist()
        return [self._content[begin:end].decode() for begin, end in pairwise(ends)]


class TokenStore(MappedStore):
    """Read access to a store of tokens or latents.

    Args:
        folder: the store.
        verify: read everything and compare checksums (otherwise only sizes, which finds truncation).

    Raises:
        FileNotFoundError: no such store.
        ValueError: a damaged, truncated or foreign one.
    """

    kind = TOKEN_STORE

    def __init__(self, folder: Path, verify: bool = False):
        self.folder = Path(folder)
        self.meta, files = read_meta(self.folder)
        if wrong := check_files(self.folder, files, verify):
            raise self._damaged(wrong)
        self._files = frozenset(files)
        if self.codes.shape != self.meta.codes_shape or self.codes.dtype != np.dtype(self.meta.codes_dtype):
            raise self._damaged(f"{self.meta.codes_file} does not have the shape that meta.json says")

    def __len__(self) -> int:
        return self.meta.count

    @cached_property
    def codes(self) -> np.ndarray:
        """(N, V, L) uint16 tokens or (N, V, C, h, w) float16 latents, memory-mapped."""
        return self._map(self.meta.codes_file)

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int32, memory-mapped."""
        return self._map("labels.npy")

    def caption(self, index: int, which: int = 0) -> str:
        """Caption `which` of image `index`; empty where the image has none."""
        first, last = self._caption_range(index)
        return self._text("caption", first + which) if first < last else ""

    def caption_count(self, index: int) -> int:
        """How many captions image `index` has."""
        first, last = self._caption_range(index)
        return last - first

    def caption_row(self, index: int, which: int = 0) -> int:
        """Number of caption `which` of image `index` among all captions: its row in a text store.

        Raises:
            ValueError: the image has no such caption.
        """
        first, last = self._caption_range(index)
        if not 0 <= which < last - first:
            raise ValueError(f"Image {self.key(index)} of {self.folder} has no caption number {which}.")
        return first + which

    def captions(self) -> Captions:
        """All captions, in order."""
        return Captions(*self._ragged["caption"])

    @property
    def several_captions(self) -> bool:
        """Whether images may have other than one caption."""
        return "caption_index.npy" in self._files

    @property
    def most_captions(self) -> int:
        """Captions of the image that has most of them."""
        return int(np.diff(self._caption_index.astype(np.int64)).max(initial=0)) if self.several_captions else 1

    @property
    def all_captioned(self) -> bool:
        """Whether every image has a caption that is not empty."""
        if self.several_captions and np.diff(self._caption_index.astype(np.int64)).min(initial=1) < 1:
            return False
        return bool((np.diff(self._ragged["caption"][1].astype(np.int64)) > 0).all())

    def key(self, index: int) -> str:
        """Name of image `index` where it came from; its number where names were not kept."""
        return self._text("key", index) if "keys.bin" in self._files else str(index)

    def _caption_range(self, index: int) -> tuple[int, int]:
        if not self.several_captions:
            return index, index + 1
        first, last = self._caption_index[index : index + 2].tolist()
        return first, last

    def _text(self, kind: str, index: int) -> str:
        content, offsets = self._ragged[kind]
        start, end = offsets[index : index + 2].tolist()
        return content[start:end].decode()

    @cached_property
    def _caption_index(self) -> np.ndarray:
        return self._map("caption_index.npy")

    @cached_property
    def _ragged(self) -> dict[str, tuple[bytes | mmap.mmap, np.ndarray]]:
        names = ["caption"] + (["key"] if "keys.bin" in self._files else [])
        return {name: (self._map_bytes(f"{name}s.bin"), self._map(f"{name}_offsets.npy")) for name in names}

    def _map_bytes(self, name: str) -> bytes | mmap.mmap:
        with open(self.folder / name, "rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:  # an empty file cannot be mapped
                return b""
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
