"""Configurations of the data sets that are tokenised beforehand, by `ablate tokenize`. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from datamodules.base_config import DataConfig
from datamodules.counts import check_share, count_best, count_subset
from datamodules.online_config import IMAGENET_CLASSES
from datamodules.store_folder import META
from datamodules.store_format import check_tokenizer, read_meta
from lightning_modules.bounds import check_least
from lightning_modules.hashing import file_sha256

T = TypeVar("T")


@dataclass
class StoreConfig(DataConfig):
    """Images as tokens or latents that were made beforehand by `ablate tokenize`: a folder with a store per split."""

    name: str = ""
    root: str = ""
    """Folder that holds train/, val/ and perhaps test/, each a store (see `datamodules.store`)."""
    condition: Literal["class", "caption"] = "class"
    """What a batch carries beside its label: nothing more, or captions and their features."""
    views: list[str] = field(default_factory=list)
    """Which of the stored views of the training images take part, as `ablate tokenize --crops` named them; all."""
    subset: int = 0
    """Train on this many images only, a fixed random choice; 0 = all."""
    best_share: float = 1.0
    """Train and validate on this share of the images (quality tuning): the highest of the store's scores.npy, (N,)
    numbers of any predictor, in the order of its images."""
    caption_weights: list[float] = field(default_factory=list)
    """How often each of an image's captions is trained on, such as [0.9, 0.1] for long and raw ones (Dimba, section
    3.2), to the nearest 420th; all alike. An image with fewer captions than others goes by the first of them."""
    fingerprint: str = ""
    """sha256 of the stores' meta.json, filled in when a run is resolved: stands for `root` in its identity."""
    folder_key: ClassVar[str] = "root"
    hint: ClassVar[str] = ""
    """What else helps where a store is not there."""

    def __post_init__(self) -> None:
        check_least(self, "data", subset=0)
        check_share(self.best_share)
        if self.caption_weights and (self.condition != "caption" or not all(0 < w < inf for w in self.caption_weights)):
            raise ValueError(
                f"data.caption_weights={list(self.caption_weights)} must be numbers above 0, of data.condition=caption."
            )
        if self.condition not in self.possible:
            raise ValueError(
                f"data.condition={self.condition}: {self.name} has no "
                f"{'classes' if self.condition == 'class' else 'captions'}; set data.condition={self.possible[0]}."
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in label order; empty where there are none."""
        return tuple(str(i) for i in range(self.num_classes))

    @property
    def num_classes(self) -> int:
        """Number of classes a generator is conditioned on; 0 where the condition is a caption."""
        return 0

    def missing(self, split: str) -> str:
        """The sentence for a store that is not there."""
        return (
            f"No store at {Path(self.root) / split}; `ablate tokenize {self.name} --split {split} --source IMAGES "
            f"--out {self.root}` makes it{self.hint}."
        )

    def resolve(self) -> None:
        """Fill in the fingerprint where `root` is given. Raises FileNotFoundError when a store is not there."""
        if not self.root:
            return
        files = [self._meta(split) for split in ("train", "val")]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(self.missing(file.parent.name))
        if self.best_share < 1:
            scores = [file.with_name("scores.npy") for file in files]
            for file in scores:
                if not file.is_file():
                    raise FileNotFoundError(f"data.best_share={self.best_share} needs the images' scores in {file}.")
            files += scores
        self.fingerprint = "-".join(file_sha256(file)[:32] for file in files)

    def training_images(self) -> int:
        """How many images a run trains on; 0 before `root` is named. Raises as `read_meta`, and ValueError when there
        are fewer than `subset`."""
        if not self.root:
            return 0
        stored = read_meta(Path(self.root) / "train")[0].count
        return count_subset(count_best(stored, self.best_share), self.subset)

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raises ValueError where the codes of a store are not those of the run's tokenizer (its configuration)."""
        for split in ("train", "val"):
            if self.root and (file := self._meta(split)).is_file():
                check_tokenizer(file.parent, tokenizer)

    def _meta(self, split: str) -> Path:
        return Path(self.root) / split / META

    def _contents(self) -> str:
        return f"the stores that `ablate tokenize {self.name}` makes"

    def _classes(self, split: str) -> list[str]:
        return self._read(split, lambda meta: list(meta["source"].get("classes", [])))

    def _read(self, split: str, what: Callable[[Any], T]) -> T:
        """Something out of a store's meta.json."""
        path = self._meta(split)
        try:
            return what(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is damaged; delete the folder and tokenize again.") from error


@dataclass
class ImageNetConfig(StoreConfig):
    """ImageNet-1k or some of its classes, in the sorted order of the synsets."""

    name: str = "imagenet"
    possible: ClassVar[tuple[str, ...]] = ("class",)
    classes: list[str] = field(default_factory=list)
    """Names of the classes where they are not the 1,000 (ImageNet-100), filled in from the stores when a run is
    resolved."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in label order: of a store that is there its own, else numbers."""
        if self.classes or not (self.root and self._meta("train").is_file()):
            return tuple(self.classes) or super().class_names
        return tuple(self._classes("train")) or super().class_names

    @property
    def num_classes(self) -> int:
        """As many as the stores name; 1,000 before they are named."""
        return len(self.classes) or IMAGENET_CLASSES

    def resolve(self) -> None:
        """Fill in the fingerprint and, of a part of ImageNet, the classes. Raises FileNotFoundError when a store is not
        there, and ValueError when the two number synsets differently (shards and parquet files may name none), or when
        a class has no image to train on: samples are drawn of all."""
        from datamodules.sources.imagenet import SYNSET

        super().resolve()
        if not self.root:
            return
        found = self._classes("train")
        for label, (train, val) in enumerate(zip(found, self._classes("val"), strict=False)):
            if train != val and SYNSET.fullmatch(train) and SYNSET.fullmatch(val):
                raise ValueError(
                    f"The stores train and val in {self.root} number the synsets differently: class {label} is {train} "
                    f"in one and {val} in the other; tokenize both from folders of the same synsets."
                )
        self.classes = found if len(found) != IMAGENET_CLASSES else []
        if (seen := len(_labels_seen(Path(self.root) / "train" / "labels.npy"))) < self.num_classes:
            raise ValueError(
                f"{Path(self.root) / 'train'} holds images of {seen:,} of {self.num_classes:,} classes, and a run "
                f"samples all of them; number the classes that there are 0 to {seen - 1} and tokenize them as `folder` "
                f"(of tar shards with --classes {seen})."
            )


def _labels_seen(path: Path) -> frozenset[int]:
    """The labels that there are among those of a store. Raises ValueError if the file is damaged or gone."""
    try:
        changed = path.stat()
        return _distinct(path, changed.st_mtime_ns, changed.st_size)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged; delete the folder and tokenize again.") from error


@lru_cache  # a plan resolves the same store for every cell
def _distinct(path: Path, changed: int, size: int) -> frozenset[int]:
    import numpy as np

    return frozenset(np.unique(np.load(path)).tolist())


@dataclass
class CC3MConfig(StoreConfig):
    """Conceptual Captions 3M: one caption an image."""

    name: str = "cc3m"
    condition: Literal["class", "caption"] = "caption"
    possible: ClassVar[tuple[str, ...]] = ("caption",)


@dataclass
class CocoConfig(StoreConfig):
    """COCO: about five captions an image, one of which is drawn each epoch."""

    name: str = "coco"
    condition: Literal["class", "caption"] = "caption"
    possible: ClassVar[tuple[str, ...]] = ("caption",)


@dataclass
class FolderConfig(StoreConfig):
    """Any collection of images with classes or captions."""

    name: str = "folder"
    hint: ClassVar[str] = "; of images without splits, --divide makes both"
    classes: list[str] = field(default_factory=list)
    """Names of the classes, filled in from the stores when a run is resolved."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in label order; empty where there are none."""
        return tuple(self.classes) if self.condition == "class" else ()

    @property
    def num_classes(self) -> int:
        """Number of classes a generator is conditioned on; 0 where the condition is a caption."""
        return len(self.class_names)

    def resolve(self) -> None:
        """Fill in fingerprint and classes. Raises FileNotFoundError or ValueError when a store does not fit."""
        super().resolve()
        if not self.root:
            return
        if self.condition == "caption":
            if not all(self._caption_bytes(split) for split in ("train", "val")):
                raise ValueError(
                    f"The stores in {self.root} have no captions; set data.condition=class, and where the preset is "
                    "one for captions also generator.condition=class text_encoder.name=none."
                )
            return
        train, val = (self._classes(split) for split in ("train", "val"))
        if train != val:
            raise ValueError(
                f"The stores train and val in {self.root} have other classes ({len(train)} and {len(val)} of them); "
                "tokenize both from folders with the same class names."
            )
        if not train:
            raise ValueError(
                f"The stores in {self.root} have no classes; set data.condition=caption, and where the preset is one "
                "for classes also generator.condition=text text_encoder.name=minilm."
            )
        seen = _labels_seen(Path(self.root) / "train" / "labels.npy")
        if absent := [name for label, name in enumerate(train) if label not in seen]:
            more = f" (and of {len(absent) - 1:,} more)" if len(absent) > 1 else ""
            raise ValueError(
                f"{Path(self.root) / 'train'} holds no image of the class {absent[0]}{more}, and a run samples all "
                f"{len(train):,} classes; remove its folder, or number the labels of shards and parquet files from 0 "
                "without a gap, and tokenize again."
            )
        self.classes = train

    def _caption_bytes(self, split: str) -> int:
        return self._read(split, lambda meta: int(meta["files"]["captions.bin"]["bytes"]))
