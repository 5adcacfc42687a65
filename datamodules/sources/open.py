"""Which source a data set's folder is."""

from __future__ import annotations

import logging
from pathlib import Path

from datamodules.online_config import IMAGENET_CLASSES
from datamodules.sources.coco import coco_source
from datamodules.sources.folders import FileSource, captioned_folder, class_folders, divided, images_in, subfolders
from datamodules.sources.imagenet import has_classes, imagenet_source
from datamodules.sources.lists import NoCaptionList, list_file, list_source
from datamodules.sources.parquet import ParquetSource, parquet_files
from datamodules.sources.records import SPLIT_FOLDERS, UNIT, Source, find_split
from datamodules.sources.tar import TarSource, has_labels, tar_files
from lightning_modules.names import unknown_name

log = logging.getLogger(__name__)
KINDS = ("imagenet", "cc3m", "coco", "folder")
ANY_LABEL = 1 << 16
"""Classes to open labelled shards with where only their images count, so that every label is taken."""


def check_kind(dataset: str) -> None:
    """Raises ValueError, naming the closest one, where `dataset` is none of `KINDS`."""
    if dataset not in KINDS:
        raise ValueError(unknown_name("data set to tokenize", dataset, KINDS))


def open_source(dataset: str, folder: Path, split: str, classes: int = 0, unit_size: int = UNIT) -> Source:
    """The images of one split of a data set.

    Args:
        dataset: one of `KINDS`.
        classes: number of classes of tar shards with .cls files; of ImageNet 1,000 where it is 0.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: an unknown data set, or a folder that does not hold what it should, said in words.
    """
    check_kind(dataset)
    if not folder.is_dir():
        raise FileNotFoundError(f"The source folder {folder} does not exist; name it with --source.")
    if dataset == "coco":
        return coco_source(folder, split, unit_size)
    if dataset == "imagenet":
        shards = [] if has_classes(folder, split) else tar_files(folder, split)
        return TarSource(shards, classes or IMAGENET_CLASSES) if shards else imagenet_source(folder, split, unit_size)
    try:
        source = _captioned(folder, split, classes, unit_size)
    except NoCaptionList as error:
        place = find_split(folder, split)
        if dataset != "folder" or place is None or images_in(place) or not subfolders(place):
            raise
        log.warning("%s The class folders in %s are taken instead.", error, place)
        source = None
    if source is not None:
        return source
    if dataset == "cc3m":
        raise ValueError(
            f"No {split} part of CC3M in {folder}: expected tar shards (*.tar or {split}/*.tar as img2dataset writes "
            f"them), {split}-*.parquet, or a list {split}*.tsv beside a folder of images."
        )
    return _plain(folder, split, unit_size)


def _captioned(folder: Path, split: str, classes: int, unit_size: int) -> Source | None:
    """Shards, parquet files or a list, where there are some."""
    if shards := tar_files(folder, split):
        return _shards(shards, classes)
    if files := parquet_files(folder, split):
        return ParquetSource(files)
    table = list_file(folder, split)
    return list_source(table, split, unit_size) if table else None


def _shards(shards: list[Path], classes: int) -> TarSource:
    labelled = has_labels(shards[0])
    if labelled and not classes:
        raise ValueError(f"{shards[0]} holds labels (.cls); say how many classes there are with --classes.")
    return TarSource(shards, classes if labelled else 0)


def _plain(folder: Path, split: str, unit_size: int) -> Source:
    """A folder of images: of a split, or the folder itself as its only split, train."""
    if place := find_split(folder, split):
        return _images(place, _classes(folder, split), unit_size)
    others = [name for name in SPLIT_FOLDERS if find_split(folder, name)]
    if others or split != "train":
        names = " or ".join(SPLIT_FOLDERS.get(split, (split,)))
        undivided = "of a folder without splits, --split train takes all, and ablate tokenize --divide makes both"
        there = f"there is {', '.join(others)}{_way_out(folder, others)}" if others else undivided
        raise ValueError(f"No split {split} in {folder}: expected the folder {names}; {there}.")
    return _images(folder, [], unit_size)


def _way_out(folder: Path, splits: list[str]) -> str:
    """What helps where a split is missing beside others."""
    classes = sorted(set(subfolders(folder)) - {name for names in SPLIT_FOLDERS.values() for name in names})
    if classes:
        return f" (if {splits[0]} is a class, as {classes[0]} is, put the folders of all classes into {folder}/train)"
    place = find_split(folder, "train")
    return f" (--source {place} --divide holds a part of it out)" if place else ""


def open_divided(folder: Path, split: str, unit_size: int = UNIT) -> Source:
    """The train or val part of a folder of images that has no splits; see `divided`.

    Raises:
        FileNotFoundError, ValueError: as `open_source`; splits, shards or tables, which need no dividing.
    """
    whole = open_source("folder", folder, "train", unit_size=unit_size)
    there = [name for name in SPLIT_FOLDERS if find_split(folder, name)]
    if there or not isinstance(whole, FileSource):
        what = f"the folder {there[0]}" if there else "shards or a table"
        raise ValueError(f"--divide is for a plain folder of images; {folder} has {what}.")
    return divided(whole, split)


def _images(place: Path, classes: list[str], unit_size: int) -> FileSource:
    """Class folders, or images with captions."""
    if (place / "metadata.jsonl").is_file() or images_in(place) or not subfolders(place):
        return captioned_folder(place, unit_size)
    return class_folders(place, classes, unit_size)


def _classes(folder: Path, split: str) -> list[str]:
    """Classes of the training images, so that labels mean the same in every split."""
    train = find_split(folder, "train")
    if split == "train" or train is None:
        return []
    return subfolders(train)
