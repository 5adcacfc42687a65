"""Configurations of the data sets that are tokenised during training. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from datamodules.base_config import DataConfig
from datamodules.counts import count_subset
from lightning_modules.bounds import check_least

if TYPE_CHECKING:
    from datamodules.sources.folders import FileSource

IMAGENET_CLASSES = 1000


@dataclass
class OnlineConfig(DataConfig):
    """Image files with classes, tokenised during training from a random crop per image and epoch (AiM's code)."""

    kind: ClassVar[str] = ""
    """The name of the data set as `ablate tokenize` and `ablate reference` take it."""
    folder_key: ClassVar[str] = "source"
    possible: ClassVar[tuple[str, ...]] = ("class",)
    name: str = ""
    source: str = ""
    """Folder of the images: a folder per class in train/ and val/, as `ablate tokenize --source` takes it."""
    condition: Literal["class"] = "class"
    """Classes alone."""
    resize: int = 0
    """Short side that training images are resized to (Lanczos) before the random crop; 0 = 9/8 of the tokenizer's
    image size, 288 for 256."""
    flip: bool = False
    """Mirror a random half of the training images; AiM's released script does not."""
    subset: int = 0
    """Train on this many images only, a fixed random choice; 0 = all."""
    image_size: int = 0
    """Side of the crop, filled in from the tokenizer when a run is resolved."""
    fingerprint: str = ""
    """sha256 of the names and labels of all files, filled in when a run is resolved: stands for `source`."""

    def __post_init__(self) -> None:
        check_least(self, "data", subset=0)

    def fit(self, tokenizer: Any) -> None:
        """Crop images of the tokenizer's size."""
        self.image_size = tokenizer.image_size

    def images(self) -> tuple[str, str]:
        """As `DataConfig.images`."""
        return self.kind, self.source or "IMAGES"

    def _contents(self) -> str:
        return "its images"

    def open(self, split: str) -> FileSource:
        """The files of a split, listed once per process.

        Raises:
            FileNotFoundError, ValueError: no such folder, no images, or images that are no single files with classes.
        """
        return _image_files(self.kind, self.source, split)

    def training_images(self) -> int:
        """How many images a run trains on; 0 before `source` is named. Raises as `open`, and ValueError when there are
        fewer than `subset`."""
        return count_subset(len(self.open("train").files), self.subset) if self.source else 0

    def resolve(self) -> None:
        """Check the sizes and fill in the fingerprint where `source` is given. Raises as `open`, and ValueError."""
        if self.resize and self.resize < self.image_size:
            raise ValueError(
                f"data.resize={self.resize} must be at least the tokenizer's image size, {self.image_size}."
            )
        if self.source:
            self.fingerprint = "-".join(self.open(split).fingerprint[:32] for split in ("train", "val"))


@lru_cache
def _image_files(kind: str, folder: str, split: str) -> FileSource:
    from datamodules.sources.folders import FileSource
    from datamodules.sources.open import open_source

    source = open_source(kind, Path(folder), split)
    if not isinstance(source, FileSource) or source.captioned:
        raise ValueError(
            f"{folder} holds no single image files with classes, which tokens during training are made from; "
            f"make stores with `ablate tokenize {kind} --source {folder} --out FOLDER` and take data.name={kind}."
        )
    return source


@dataclass
class ImageNetOnlineConfig(OnlineConfig):
    """ImageNet-1k, or some of its classes, as image files, tokenised during training."""

    kind: ClassVar[str] = "imagenet"
    name: str = "imagenet_online"
    classes: list[str] = field(default_factory=list)
    """Names of the classes where they are not the 1,000 (ImageNet-100), filled in from the folders when a run is
    resolved."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The synsets in label order; their numbers without `source`."""
        if self.classes:
            return tuple(self.classes)
        return tuple(self.open("train").class_names if self.source else map(str, range(self.num_classes)))

    @property
    def num_classes(self) -> int:
        """As many as there are folders of synsets; 1,000 before they are named."""
        return len(self.classes) or IMAGENET_CLASSES

    def resolve(self) -> None:
        """Fill in the fingerprint and, of a part of ImageNet, the classes. Raises as `OnlineConfig.resolve`."""
        super().resolve()
        if self.source:
            names = list(self.open("train").class_names)
            self.classes = names if len(names) != IMAGENET_CLASSES else []


@dataclass
class FolderOnlineConfig(OnlineConfig):
    """Folders of images, one per class, tokenised during training."""

    kind: ClassVar[str] = "folder"
    name: str = "folder_online"
    class_folders: list[str] = field(default_factory=list)
    """Names of the classes in label order, filled in from `source` when a run is resolved; the fingerprint covers
    them."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in label order; empty before `source` is named."""
        return tuple(self.class_folders)

    @property
    def num_classes(self) -> int:
        """Number of classes a generator is conditioned on."""
        return len(self.class_folders)

    def resolve(self) -> None:
        """As `OnlineConfig.resolve`; fills in the names of the classes, too."""
        super().resolve()
        if self.source:
            self.class_folders = list(self.open("train").class_names)
