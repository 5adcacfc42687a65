"""COCO captions: an images folder and annotations/captions_*.json with about five captions an image."""

from __future__ import annotations

import json
from pathlib import Path

from datamodules.sources.folders import FileSource
from datamodules.sources.records import UNIT, Refused


def annotation_file(folder: Path, split: str) -> Path | None:
    """The caption file of a split: annotations/captions_SPLIT2014.json or 2017, of the first year that has images."""
    names = [f"captions_{split}{year}.json" for year in (2014, 2017)]
    found = [path for name in names for path in (folder / "annotations" / name, folder / name) if path.is_file()]
    return next((path for path in found if images_folder(folder, path, shared=False)), found[0] if found else None)


def images_folder(folder: Path, annotations: Path, shared: bool = True) -> Path | None:
    """The images of a caption file: val2014/ or images/val2014/, else images/, which all years may share."""
    name = annotations.stem.removeprefix("captions_")
    places = (name, f"images/{name}", *(["images"] if shared else []))
    return next((folder / place for place in places if (folder / place).is_dir()), None)


def coco_source(folder: Path, split: str, unit_size: int = UNIT) -> FileSource:
    """The images of a split in the order of their numbers, each with all of its captions.

    Images without a caption, and images that are listed but not there, are refused one by one.

    Raises:
        ValueError: no caption file, no image folder, or a damaged caption file.
    """
    path = annotation_file(folder, split)
    if path is None:
        raise ValueError(
            f"No captions for {split} in {folder}: expected annotations/captions_{split}2014.json or "
            f"captions_{split}2017.json."
        )
    if (images := images_folder(folder, path)) is None:
        name = path.stem.removeprefix("captions_")
        raise ValueError(f"No images for {path.name} in {folder}: expected the folder {name}/ or images/{name}/.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = {int(entry["id"]): str(entry["file_name"]) for entry in content["images"]}
        captions: dict[int, list[str]] = {number: [] for number in files}
        for entry in sorted(content["annotations"], key=lambda entry: int(entry["id"])):
            captions[int(entry["image_id"])].append(str(entry["caption"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or no COCO caption file ({type(error).__name__}: {error}).") from error
    present = {entry.name for entry in images.iterdir()}
    kept = [number for number in sorted(files) if files[number] in present]
    refused = [
        Refused(files[n], f"listed in {path.name} but not in {images}") for n in sorted(files.keys() - set(kept))
    ]
    if not kept:
        raise ValueError(f"None of the {len(files)} images that {path} lists is in {images}.")
    texts = [tuple(captions[number]) for number in kept]
    return FileSource(images, [files[n] for n in kept], [0] * len(kept), (), texts, refused, unit_size)
