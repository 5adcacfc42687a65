"""Read the packed emoji images. Needs numpy only.

The packed file is fully crossed, style x concept, so one table describes the concepts of both styles:

    images      (S, C, 32, 32, 3) uint8, RGB on white
    labels      (C,) int64, index into labels.CATEGORIES
    captions    (C,) str            concepts (C,) str, code points such as "1f468-200d-1f33e"
    validation  (C,) bool           styles   (S,) str

Shapes: S styles, C concepts, N = images selected.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.emoji.labels import EMOJI_FILE, STYLES

SPLITS = ("train", "val", "all")
ARRAYS = ("images", "labels", "captions", "concepts", "validation", "styles")

Split = Literal["train", "val", "all"]


@dataclass(frozen=True)
class EmojiImages:
    """N images, style after style in the order asked for, concepts in Unicode order within a style.

    Attributes:
        images: (N, 32, 32, 3) uint8 RGB on white.
        labels: (N,) int64, index into ``labels.CATEGORIES``.
        captions: N strings, the Unicode name and the usual short names, lower case.
        concepts: N strings, the code points; the same concept appears once in every style.
        styles: N strings out of ``labels.STYLES``.
        fingerprint: sha256 (hex) over all of the above.
    """

    images: np.ndarray
    labels: np.ndarray
    captions: list[str]
    concepts: list[str]
    styles: list[str]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.images)


def load_emoji(styles: Sequence[str] = STYLES, split: Split = "train", path: Path = EMOJI_FILE) -> EmojiImages:
    """Load the images of one split.

    Splits are by concept, so the two styles of one emoji, and its gendered variants, are always on the same side.

    Raises:
        ValueError: an unknown style or split, or a damaged or foreign file.
        FileNotFoundError: no file at ``path``.
    """
    arrays = _read(path)
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r} of the emoji data; valid are {', '.join(SPLITS)}.")
    stored = [str(style) for style in arrays["styles"]]
    for style in styles:
        if style not in stored:
            raise ValueError(f"Unknown emoji style {style!r}; valid are {', '.join(stored)}.")
    if not styles or len(set(styles)) != len(styles):
        raise ValueError(f"Emoji styles must be one or more different names out of {', '.join(stored)}, not {styles}.")

    validation = arrays["validation"]
    chosen = np.flatnonzero({"train": ~validation, "val": validation, "all": np.ones_like(validation)}[split])
    images = np.concatenate([arrays["images"][stored.index(style), chosen] for style in styles])
    labels = np.tile(arrays["labels"][chosen], len(styles))
    captions = arrays["captions"][chosen].tolist() * len(styles)
    concepts = arrays["concepts"][chosen].tolist() * len(styles)
    style_column = [style for style in styles for _ in chosen]

    digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes())
    digest.update("\n".join([*captions, *concepts, *style_column]).encode())
    return EmojiImages(images, labels, captions, concepts, style_column, digest.hexdigest())


def count_emoji(styles: Sequence[str]) -> int:
    """How many images `load_emoji(styles)` loads."""
    return len(styles) * int((~_read(EMOJI_FILE)["validation"]).sum())


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, not to be written to."""
    if not path.is_file():
        raise FileNotFoundError(
            f"The emoji data file {path} does not exist; `python -m datamodules.emoji.build` makes it."
        )
    found = path.stat()
    return _unpacked(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=1)  # a run asks for every split several times; unpacking takes half a second
def _unpacked(path: Path, changed: int, size: int) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ARRAYS if name not in file.files]
            if missing:
                raise ValueError(f"{path} is not an emoji data file: it lacks the array {missing[0]!r}.")
            return {name: file[name] for name in ARRAYS}
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"The emoji data file {path} is damaged ({error}); restore or rebuild it.") from error
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is not an emoji data file ({error}).") from error
