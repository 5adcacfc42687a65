"""What a source hands out: images not decoded yet, each with its label and captions, or the reason why there is none.

Label, captions and image travel in one object from the source to the store, so that an image which is left out takes
them along.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}
"""Split -> the names that its folder or files go by."""
UNIT = 4096
"""Images of a unit where the source does not come in files of its own."""


@dataclass(frozen=True)
class Record:
    """One image.

    Attributes:
        key: its name within the source, unique.
        label: class, 0 where there are none.
        captions: as found, not cleaned.
        content: the bytes of the image file, or where that file is.
    """

    key: str
    label: int
    captions: tuple[str, ...]
    content: bytes | Path

    def read(self) -> bytes:
        """The bytes of the image file. Raises OSError."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True)
class Refused:
    """An image that cannot be used, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Unit:
    """A part of a source that is read, encoded and stored as a whole.

    Attributes:
        name: for messages, such as a file.
        count: how many images, None where only reading tells.
    """

    name: str
    count: int | None = None


class Source(Protocol):
    """A collection of images with a fixed order."""

    @property
    def units(self) -> Sequence[Unit]:
        """The parts that are read one by one."""

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes in label order; empty where images have captions only."""

    @property
    def captioned(self) -> bool:
        """Whether images without a caption are to be refused."""

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of what the source holds: names, labels, captions, or names and sizes of its files."""

    def read(self, index: int) -> Iterator[Record | Refused]:
        """Everything in unit `index`, always in the same order. Raises OSError or ValueError."""


def chunks(count: int, size: int = UNIT) -> list[Unit]:
    """Units of `size` images."""
    return [
        Unit(f"images {start} to {min(start + size, count) - 1}", min(size, count - start))
        for start in range(0, count, size)
    ]


def digest_of(words: Iterable[str]) -> str:
    """Hex sha256 of a sequence of strings."""
    digest = hashlib.sha256()
    for word in words:
        digest.update(word.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()


def words_of(name: str) -> list[str]:
    """The words of a file's name: "cc3m_val2014-00001.tar" -> ["cc3m", "val", "tar"], with capitals as they are."""
    return re.findall(r"[^\W\d_]+", name)


def decoded_text(content: bytes) -> str:
    """A text file as UTF-8, or as UTF-16 where its first bytes say so; a mark at its start is no part of it."""
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if marked else "utf-8-sig", errors="replace")


def texts_of(value: object) -> tuple[str, ...]:
    """The captions of an image as JSON and tables hold them: a text, a list of them, or None where there is none.

    Raises:
        ValueError: a caption that is no text.
    """
    texts = []
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str):
            texts.append(text)
        elif text is not None:
            raise ValueError(f"a caption is of type {type(text).__name__}, not a text")
    return tuple(texts)


def is_unicode(name: str) -> bool:
    """Whether a name is valid Unicode: those of files that are not UTF-8 come with lone surrogates."""
    return name == name.encode(errors="replace").decode()


def find_split(folder: Path, split: str) -> Path | None:
    """The subfolder of a split, under any of its usual names."""
    return next((folder / name for name in SPLIT_FOLDERS.get(split, (split,)) if (folder / name).is_dir()), None)


def is_image(name: str) -> bool:
    """Whether a file is an image by its name; hidden files are not."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not Path(name).name.startswith(".")
