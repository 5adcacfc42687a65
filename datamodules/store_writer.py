"""Writing a store part by part, in constant memory; it appears complete or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from datamodules.store_folder import META, commit_folder
from datamodules.store_format import TOKEN_STORE, StoreMeta
from lightning_modules.hashing import sha256_of


class StoreWriter:
    """Writes a store of known size beside its place; leaving the `with` block without an error moves it there.

    The bytes depend on what is appended, not on how it is cut into parts. If another process finishes the same folder
    first, its store stays.

    Args:
        folder: the store to be.
        meta: what it will hold.

    Raises:
        ValueError: parts that do not fit `meta`, or other than `meta.count` samples in all.
    """

    def __init__(self, folder: Path, meta: StoreMeta):
        if not meta.latent_shape and not 0 < meta.vocab_size <= 2**16:
            raise ValueError(f"A token store holds 16-bit tokens; a vocabulary of {meta.vocab_size} does not fit.")
        self.folder, self.meta = folder, meta
        self.extra: dict[str, str] = {}
        """Further text files to put into the folder, by name; readers of the store ignore them."""
        self._written = 0
        self._captions_per_image: list[int] = []
        self._lengths: dict[str, list[int]] = {"captions.bin": [], "keys.bin": []}

    def __enter__(self) -> StoreWriter:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix=f".{self.folder.name}."))
        self._streams: dict[str, BinaryIO] = {}
        self._open_array(self.meta.codes_file, self.meta.codes_dtype, self.meta.codes_shape)
        self._open_array("labels.npy", "<i4", (self.meta.count,))
        for name in self._lengths:
            self._streams[name] = open(self._temporary / name, "wb")  # noqa: SIM115 (closed in _close)
        return self

    def append(
        self, codes: np.ndarray, labels: np.ndarray, captions: Sequence[Sequence[str]], keys: Sequence[str] = ()
    ) -> None:
        """Add n samples.

        Args:
            codes: (n, V, L) integers in [0, vocab_size), or (n, V, C, h, w) latents.
            labels: (n,) integers.
            captions: n sequences of strings.
            keys: names of the samples, n or none at all.
        """
        self._check(codes, labels, captions, keys)
        self._streams[self.meta.codes_file].write(np.ascontiguousarray(codes, self.meta.codes_dtype).data)
        self._streams["labels.npy"].write(np.ascontiguousarray(labels, "<i4").data)
        self._captions_per_image += map(len, captions)
        for name, texts in (("captions.bin", [text for group in captions for text in group]), ("keys.bin", keys)):
            encoded = [text.encode() for text in texts]
            self._streams[name].write(b"".join(encoded))
            self._lengths[name] += map(len, encoded)
        self._written += len(codes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close()
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _finish(self) -> None:
        if self._written != self.meta.count:
            raise ValueError(f"{self.folder} was to hold {self.meta.count} samples but got {self._written}.")
        names = [self.meta.codes_file, "labels.npy", "captions.bin", "caption_offsets.npy"]
        self._save_offsets("caption_offsets.npy", self._lengths["captions.bin"])
        if any(count != 1 for count in self._captions_per_image):
            self._save_offsets("caption_index.npy", self._captions_per_image)
            names.append("caption_index.npy")
        if self._lengths["keys.bin"]:
            self._save_offsets("key_offsets.npy", self._lengths["keys.bin"])
            names += ["keys.bin", "key_offsets.npy"]
        else:
            (self._temporary / "keys.bin").unlink()
        paths = {name: self._temporary / name for name in names}
        files = {name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for name, path in paths.items()}
        content: dict[str, Any] = {**TOKEN_STORE.header, **asdict(self.meta), "files": files}
        if not self.meta.latent_shape:
            del content["latent_shape"]
        for name, text in {**self.extra, META: json.dumps(content, indent=1, ensure_ascii=False)}.items():
            (self._temporary / name).write_text(text, encoding="utf-8")
        commit_folder(self._temporary, self.folder)

    def _check(
        self, codes: np.ndarray, labels: np.ndarray, captions: Sequence[Sequence[str]], keys: Sequence[str]
    ) -> None:
        shape, vocab_size = self.meta.codes_shape[1:], self.meta.vocab_size
        if (
            codes.shape[1:] != shape
            or not len(codes) == len(labels) == len(captions)
            or len(keys) not in (0, len(codes))
        ):
            raise ValueError(
                f"A store of {'latents' if self.meta.latent_shape else 'tokens'} (N, {', '.join(map(str, shape))}) "
                f"needs as many labels and captions, not {codes.shape}, {len(labels)} and {len(captions)}."
            )
        if not self.meta.latent_shape and codes.size and not (0 <= codes.min() and codes.max() < vocab_size):
            raise ValueError(f"Tokens in [{codes.min()}, {codes.max()}] exceed the vocabulary of {vocab_size}.")

    def _open_array(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        self._streams[name] = stream = open(self._temporary / name, "wb")  # noqa: SIM115 (closed in _close)
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)

    def _save_offsets(self, name: str, lengths: list[int]) -> None:
        np.save(self._temporary / name, np.cumsum([0, *lengths], dtype=np.uint64))

    def _close(self) -> None:
        for stream in self._streams.values():
            stream.close()
