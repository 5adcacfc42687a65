"""ImageNet-1k as people have it: class folders, the ILSVRC layout with its ground-truth file, or parquet files.

The order of classes is the sorted order of the synsets (n01440764, n01443537, ..), which is what every published
class-conditional model uses. The development kit numbers its classes otherwise; its meta.mat translates.
"""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path

from datamodules.online_config import IMAGENET_CLASSES
from datamodules.sources.folders import FileSource, class_folders, images_in, subfolders
from datamodules.sources.parquet import ParquetSource, parquet_files
from datamodules.sources.records import UNIT, Source, find_split

log = logging.getLogger(__name__)
ROOTS = ("", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC", "ILSVRC2012", "imagenet")
"""Where train/ and val/ are looked for, beneath the source folder."""
NUMBERED, SYNSETS, KAGGLE = (
    "ILSVRC2012_validation_ground_truth.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "LOC_val_solution.csv",
)
META = "meta.mat"
SYNSET = re.compile(r"n\d{8}")


def imagenet_source(folder: Path, split: str, unit_size: int = UNIT) -> Source:
    """The images of a split.

    Raises:
        ValueError: no such split, no labels for a flat folder of validation images, classes that do not fit, or a
            folder beside the synsets.
    """
    if files := parquet_files(folder, split):
        return ParquetSource(files, labelled=True)
    images = images_folder(folder, split)
    if images is None:
        raise ValueError(
            f"No {split} images in {folder}: expected {split}/ with a folder per synset (beneath it or beneath "
            f"{', '.join(ROOTS[1:])}), or {split}-*.parquet."
        )
    if names := synsets(folder):
        _check_synsets(names, images_folder(folder, "train") or folder)
    if images_in(images):
        return _flat(folder, images, names, unit_size)
    if not names:
        _check_synsets(subfolders(images), images)
    return class_folders(images, names, unit_size)


def has_classes(folder: Path, split: str) -> bool:
    """Whether images of a split lie there as files, in folders of synsets or flat."""
    images = images_folder(folder, split)
    return images is not None and (any(map(SYNSET.fullmatch, subfolders(images))) or bool(images_in(images)))


def images_folder(folder: Path, split: str) -> Path | None:
    """The folder with the images of a split."""
    found = (find_split(folder / root, split) for root in ROOTS)
    return next((path for path in found if path), None)


def synsets(folder: Path) -> list[str]:
    """Classes in label order, from the folders of the training images; empty where there are none."""
    train = images_folder(folder, "train")
    if train is None:
        return []
    return subfolders(train)


def _check_synsets(names: list[str], place: Path) -> None:
    """Raises ValueError for a folder that is no synset: it would count as a class and shift the labels behind it."""
    if strange := next((name for name in names if not SYNSET.fullmatch(name)), None):
        raise ValueError(
            f"{place} has the subfolder {ascii(strange)}, which is no synset (n and eight digits), so labels would be "
            "wrong; move it away, or tokenize a collection with other classes as `folder`."
        )
    if len(names) != IMAGENET_CLASSES:
        log.warning(
            "%s has %d folders of synsets, ImageNet-1k %d: a run on it has %d classes, numbered 0 to %d.",
            *(place, len(names), IMAGENET_CLASSES, len(names), len(names) - 1),
        )


def ground_truth(folder: Path, images: Path) -> Path | None:
    """The file with the labels of a flat folder of validation images."""
    places = [
        folder,
        images,
        images.parent,
        *(folder / name for name in ("data", "devkit/data", "ILSVRC2012_devkit_t12/data")),
    ]
    candidates = [place / name for name in (SYNSETS, KAGGLE, NUMBERED) for place in places]
    return next((path for path in candidates if path.is_file()), None)


def _flat(folder: Path, images: Path, names: list[str], unit_size: int) -> FileSource:
    files = images_in(images)
    truth = ground_truth(folder, images)
    if truth is None:
        raise ValueError(
            f"{images} holds images without class folders, and the labels file is not found: expected {SYNSETS}, "
            f"{KAGGLE} or {NUMBERED} (with {META}) in {folder} or beside the images."
        )
    if truth.name == KAGGLE:
        by_file = _kaggle(truth)
        missing = [file for file in files if Path(file).stem not in by_file]
        if missing:
            raise ValueError(f"{truth} has no label for {missing[0]} ({len(missing)} images without one).")
        found = [by_file[Path(file).stem] for file in files]
    else:
        words = truth.read_text(encoding="utf-8").split()
        if len(words) != len(files):
            raise ValueError(
                f"{truth} has {len(words)} labels but {images} {len(files)} images: which label belongs to which image "
                "cannot be told. Restore the missing files."
            )
        found = _translate(truth, words) if truth.name == NUMBERED else words
    names = names or sorted(set(found))
    if len(names) != IMAGENET_CLASSES and images_folder(folder, "train") is None:
        raise ValueError(
            f"{truth} names {len(names)} classes instead of {IMAGENET_CLASSES} and there is no train/ with a folder "
            "per synset, so the order of the classes is not known."
        )
    if unknown := sorted(set(found) - set(names)):
        raise ValueError(f"{truth} names the class {unknown[0]}, which the training images do not have.")
    index = {name: label for label, name in enumerate(names)}
    return FileSource(images, files, [index[name] for name in found], names, unit_size=unit_size)


def _kaggle(path: Path) -> dict[str, str]:
    """ImageId,PredictionString lines: {image: synset}. Raises ValueError for another table or an empty field."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(stream)}
    except (KeyError, IndexError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table of ImageId,PredictionString.") from error


def _translate(truth: Path, words: list[str]) -> list[str]:
    """ILSVRC2012_IDs (1 to 1000, in the order of the development kit) to synsets, by its meta.mat."""
    path = next((place / META for place in (truth.parent, truth.parent.parent) if (place / META).is_file()), None)
    if path is None:
        raise ValueError(
            f"{truth} numbers the classes in the order of the development kit, which is not that of the synsets; "
            f"put the kit's {META} beside it."
        )
    from scipy.io import loadmat

    try:
        table = loadmat(path, squeeze_me=True)["synsets"]
        names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table}
    except Exception as error:  # SciPy raises whatever its reader of binary data comes upon
        raise ValueError(f"{path} is damaged, or not the development kit's: no table of synsets in it.") from error
    try:
        return [names[int(word)] for word in words]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{truth}: {error.args[0]} is no class number of {path}.") from error
