"""Configurations of the data sets. Torch-free, so that a plan can identify data without loading it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datamodules.emoji.labels import CATEGORIES, EMOJI_FILE, STYLES
from lightning_modules.hashing import file_sha256
from lightning_modules.registry import Entry, Registry


@dataclass
class EmojiConfig:
    """The embedded data set: 1,898 emoji in two styles, 32x32 pixels, 9 categories, a caption each."""

    name: str = "emoji"
    styles: list[str] = field(default_factory=lambda: list(STYLES))
    condition: Literal["class", "caption"] = "class"
    """What a batch carries beside its label: nothing more, or the captions."""
    flip: bool = False
    """Mirror a random half of the training images, drawn anew each epoch (letters and flags are mirrored too)."""
    subset: int = 0
    """Train on this many images only, a fixed random choice; 0 = all."""
    fingerprint: str = ""
    """sha256 of the data file, filled in when a run is resolved: it stands for the data in the run's identity."""

    def __post_init__(self) -> None:
        if not self.styles or len(set(self.styles)) != len(self.styles) or not set(self.styles) <= set(STYLES):
            raise ValueError(
                f"data.styles={list(self.styles)} must be one or more different names out of {', '.join(STYLES)}."
            )
        if self.subset < 0:
            raise ValueError(f"data.subset={self.subset} must be a number of images, or 0 for all.")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return CATEGORIES

    @property
    def num_classes(self) -> int:
        """Number of classes a generator is conditioned on; 0 where the condition is a caption."""
        return len(CATEGORIES) if self.condition == "class" else 0

    def resolve(self) -> None:
        """Fill in the fingerprint. Raises FileNotFoundError when the data file is not installed."""
        self.fingerprint = file_sha256(EMOJI_FILE)


@dataclass
class ImageNetConfig:
    """ImageNet-1k as tokens that were made beforehand: a folder with one token store per split."""

    name: str = "imagenet"
    root: str = ""
    """Folder that holds train/ and val/, each a token store (see `datamodules.store`). Not needed to plan."""
    subset: int = 0
    """Train on this many images only, a fixed random choice; 0 = all."""
    fingerprint: str = ""
    """sha256 of both stores' meta.json, filled in when a run is resolved: stands for `root` in its identity."""

    def __post_init__(self) -> None:
        if self.subset < 0:
            raise ValueError(f"data.subset={self.subset} must be a number of images, or 0 for all.")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class numbers, in the sorted order of the synsets."""
        return tuple(str(i) for i in range(self.num_classes))

    @property
    def num_classes(self) -> int:
        """1,000."""
        return 1000

    def resolve(self) -> None:
        """Fill in the fingerprint where `root` is given. Raises FileNotFoundError when a store is not there."""
        if self.root:
            files = [Path(self.root) / split / "meta.json" for split in ("train", "val")]
            self.fingerprint = "-".join(file_sha256(file)[:32] for file in files)


DATASETS = Registry(
    "data set",
    {
        "emoji": Entry(EmojiConfig, "datamodules.emoji.datamodule:EmojiDataModule"),
        "imagenet": Entry(ImageNetConfig, "datamodules.imagenet:ImageNetDataModule"),
    },
)
