"""Folders of image files: one subfolder per class, or captions beside the images."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from datamodules.sources.records import (
    UNIT,
    Record,
    Refused,
    chunks,
    decoded_text,
    digest_of,
    is_image,
    is_unicode,
    texts_of,
)

HELD_OUT = 10
"""One image in so many is held out where a folder without splits is divided."""


class FileSource:
    """A source whose images are single files, listed beforehand.

    Args:
        folder: what file names are relative to.
        files: relative names, in the order of the store; they are the keys.
        labels: one per file.
        class_names: empty where images have captions only.
        captions: one tuple per file, or None. Beside classes they are kept where there are some, and not asked for.
        refused: entries of a list for which there is no file; they are reported with the first unit.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[str],
        labels: Sequence[int],
        class_names: Sequence[str] = (),
        captions: Sequence[tuple[str, ...]] | None = None,
        refused: Sequence[Refused] = (),
        unit_size: int = UNIT,
    ):
        self.folder, self.files, self.labels, self.captions = folder, files, labels, captions
        self.class_names, self.refused, self.unit_size = class_names, refused, unit_size
        self.captioned = captions is not None and not class_names
        self.units = chunks(len(files), unit_size)
        texts = captions if captions is not None else [()] * len(files)
        self.fingerprint = digest_of(
            f"{file}\n{label}\n{json.dumps(text)}" for file, label, text in zip(files, labels, texts, strict=True)
        )

    def read(self, index: int) -> Iterator[Record | Refused]:
        """The files of one unit."""
        if index == 0:
            yield from self.refused
        start = index * self.unit_size
        for i in range(start, min(start + self.unit_size, len(self.files))):
            captions = self.captions[i] if self.captions is not None else ()
            yield Record(self.files[i], int(self.labels[i]), captions, self.folder / self.files[i])


def class_folders(folder: Path, class_names: Sequence[str] = (), unit_size: int = UNIT) -> FileSource:
    """One subfolder per class, classes in sorted order, images anywhere beneath, perhaps with a text file beside each.

    Args:
        class_names: the classes to expect; by default the subfolders that there are.

    Raises:
        ValueError: a subfolder that is no expected class or, where none are expected, has no image; a name that is not
            UTF-8; no images at all.
    """
    found = subfolders(folder)
    names = list(class_names) or found
    if unexpected := sorted(set(found) - set(names)):
        raise ValueError(
            f"{folder} has the subfolder {unexpected[0]}, which is none of the {len(names)} classes; "
            "labels would be wrong. Remove it or name the right folder with --source."
        )
    if strange := next((name for name in names if not is_unicode(name)), None):
        raise ValueError(f"{folder} has the class {ascii(strange)}, whose name is not UTF-8; rename that folder.")
    there = {name: {f"{name}/{file}" for file in _files_beneath(folder / name)} for name in found}
    members = [sorted(filter(is_image, there.get(name, ()))) for name in names]
    files = [file for group in members for file in group]
    if not files:
        raise ValueError(f"No images in the class folders of {folder}.")
    if not class_names and (empty := [name for name, group in zip(names, members, strict=True) if not group]):
        more = f" (and {len(empty) - 1} more like it)" if len(empty) > 1 else ""
        raise ValueError(
            f"{folder} has the subfolder {empty[0]}{more} without an image, which would be a class that nothing is "
            "learnt of; remove it, or name the right folder with --source."
        )
    labels = [label for label, group in enumerate(members) for _ in group]
    captions = _captions_beside(folder, files, set().union(*there.values()))
    return FileSource(folder, files, labels, names, captions if any(captions) else None, unit_size=unit_size)


def captioned_folder(folder: Path, unit_size: int = UNIT) -> FileSource:
    """Images with a text file of the same name beside each, or listed with captions in metadata.jsonl.

    Raises:
        ValueError: no images, or a list that cannot be read.
    """
    if (table := folder / "metadata.jsonl").is_file():
        return _from_metadata(table, unit_size)
    there = set(_files_beneath(folder))
    files = sorted(filter(is_image, there))
    if not files:
        raise ValueError(f"No images in {folder}.")
    captions = _captions_beside(folder, files, there)
    if not any(captions):
        beside = f" {images_in(folder)[0]} lies beside them." if subfolders(folder) and images_in(folder) else ""
        raise ValueError(
            f"None of the {len(files):,} images in {folder} has a class or a caption: put them into one folder per "
            f"class, {folder}/CLASS/*, with no image beside these folders, or a .txt beside each image.{beside}"
        )
    return FileSource(folder, files, [0] * len(files), (), captions, unit_size=unit_size)


def divided(source: FileSource, split: str) -> FileSource:
    """One split of a folder that has none: of each class, a tenth of the images (at least one) is val, the rest train.

    Which ones follows from their names alone, so that both splits of one folder never overlap.

    Raises:
        ValueError: a class of one image.
    """
    by_label: dict[int, list[int]] = defaultdict(list)
    for i, label in enumerate(source.labels):
        by_label[label].append(i)
    val: set[int] = set()
    for label, members in by_label.items():
        if len(members) < 2:
            name = source.class_names[label] if source.class_names else source.folder
            raise ValueError(
                f"{name} has one image, which cannot be in train and val; add more, or divide {source.folder} into "
                "the folders train and val."
            )
        members.sort(key=lambda i: hashlib.sha256(source.files[i].encode(errors="surrogateescape")).digest())
        val.update(members[: max(1, len(members) // HELD_OUT)])
    kept = [i for i in range(len(source.files)) if (i in val) == (split == "val")]
    return FileSource(
        source.folder,
        [source.files[i] for i in kept],
        [source.labels[i] for i in kept],
        source.class_names,
        None if source.captions is None else [source.captions[i] for i in kept],
        source.refused if split == "train" else (),
        source.unit_size,
    )


def images_in(folder: Path) -> list[str]:
    """Names of the images in the folder itself, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if is_image(entry.name) and not _is_folder(entry))


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are left out."""
    return sorted(entry.name for entry in os.scandir(folder) if _is_folder(entry) and not entry.name.startswith("."))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one; a link that leads in a circle is not, and fails as an image when it is read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _files_beneath(folder: Path) -> Iterator[str]:
    """Relative names of all files in a folder and its subfolders, but for hidden ones (such as editors' copies)."""
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from (f"{entry.name}/{name}" for name in _files_beneath(Path(entry.path)))
        else:
            yield entry.name


def _captions_beside(folder: Path, files: Sequence[str], there: Collection[str]) -> list[tuple[str, ...]]:
    """For each file what the text file of the same name says, if that is among those `there`."""
    texts = [f"{file.rpartition('.')[0]}.txt" for file in files]
    return [(decoded_text((folder / text).read_bytes()),) if text in there else () for text in texts]


def _from_metadata(table: Path, unit_size: int) -> FileSource:
    files, captions, refused, seen = [], [], [], set()
    # Not splitlines: JSON may hold separators of Unicode (U+2028, U+0085) as they are.
    for number, line in enumerate(table.read_text(encoding="utf-8-sig", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            file, text = str(entry["file_name"]), entry.get("text", entry.get("caption", ""))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{table}, line {number}: expected a JSON object with file_name and text ({type(error).__name__})."
            ) from error
        if (path := os.path.normpath(file)) in seen:
            refused.append(Refused(file, f"listed twice (again in line {number})"))
            continue
        seen.add(path)
        try:
            captions.append(texts_of(text))
            files.append(file)
        except ValueError as error:
            refused.append(Refused(file, f"annotation cannot be read ({error})"))
    if not files:
        raise ValueError(f"{table} lists no images.")
    return FileSource(table.parent, files, [0] * len(files), (), captions, refused, unit_size)
