"""A list of captions and images: CC3M's own TSV beside a folder of downloads, or any table that names its files.

Two layouts are understood. With a header line: a column of paths (filepath, file, image, path) and one of captions
(caption, title, text), tab- or comma-separated. Without: `caption TAB url` as CC3M comes, where the image of line i
(from 0) is a file whose name is the number i, zero-padded or not, with any image ending, in the folder beside the list.
That one may have a header, too, as img2dataset needs it: caption and url in any order, and lines count behind it.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from datamodules.sources.folders import FileSource
from datamodules.sources.records import SPLIT_FOLDERS, UNIT, Refused, find_split, is_image, words_of

PATHS, CAPTIONS = ("filepath", "file", "file_name", "image", "path"), ("caption", "title", "text")


class NoCaptionList(ValueError):
    """A table of something else than captions."""


def list_file(folder: Path, split: str) -> Path | None:
    """The list of a split, by the first word of its name: SPLIT.tsv, SPLIT.csv, Train_GCC-training.tsv or the like."""
    names = SPLIT_FOLDERS.get(split, (split,))
    tables = sorted([*folder.glob("*.tsv"), *folder.glob("*.csv")])
    return next((path for path in tables if "".join(words_of(path.stem.lower())[:1]) in names), None)


def list_source(table: Path, split: str, unit_size: int = UNIT) -> FileSource:
    """The images that a list names, in its order. Lines whose image is not there are refused one by one.

    Raises:
        NoCaptionList: a table of another form.
        ValueError: no folder of images, or none of the images there.
    """
    rows, separator = _rows(table)
    header = [word.strip().lower() for word in rows[0]] if rows else []
    path = next((header.index(word) for word in PATHS if word in header), None)
    caption = next((header.index(word) for word in CAPTIONS if word in header), None)
    if path is not None and caption is not None:
        return _with_paths(table, rows[1:], path, caption, unit_size)
    headed = "url" in header
    fields = all(len(row) >= 2 for row in rows[:8] if row != [""])
    if separator != "\t" or not rows or not fields or (headed and caption is None):
        raise NoCaptionList(
            f"{table} is not understood: expected a header with a column of files ({', '.join(PATHS)}) and one of "
            f"captions ({', '.join(CAPTIONS)}), or CC3M's lines of caption TAB url."
        )
    column, begin = (caption or 0, 1) if headed else (0, 0)
    captions = [tuple(row[column : column + 1]) for row in rows[begin:]]
    return _numbered(table, captions, split, unit_size, begin + 1)


def _rows(table: Path) -> tuple[list[list[str]], str]:
    """The fields of every line, and what separates them.

    A tab-separated line is a line, whatever is in it: its number says which image it belongs to.
    """
    with open(table, newline="\n", encoding="utf-8-sig", errors="replace") as stream:
        if "\t" in next((line for line in stream if line.strip()), ""):
            stream.seek(0)
            rows = [line.rstrip("\r\n").split("\t") for line in stream]
            while rows and rows[-1] == [""]:
                rows.pop()
            return rows, "\t"
    csv.field_size_limit(1 << 24)
    with open(table, newline="", encoding="utf-8-sig", errors="replace") as stream:
        try:
            return [row for row in csv.reader(stream) if row], ","
        except csv.Error as error:
            raise NoCaptionList(f"{table} is no table of comma-separated values ({error}).") from error


def _with_paths(table: Path, rows: list[list[str]], path: int, caption: int, unit_size: int) -> FileSource:
    files, texts, refused, seen = [], [], [], set()
    for number, row in enumerate(rows, 2):
        if len(row) <= max(path, caption):
            refused.append(Refused(f"{table.name}, line {number}", f"{len(row)} columns"))
        elif (file := os.path.normpath(row[path])) in seen:
            refused.append(Refused(row[path], f"listed twice (again in line {number})"))
        else:
            seen.add(file)
            files.append(row[path])
            texts.append((row[caption],))
    return _source(table, table.parent, files, texts, refused, unit_size)


def _numbered(table: Path, captions: list[tuple[str, ...]], split: str, unit_size: int, first: int) -> FileSource:
    """Image i has captions[i], from line `first` + i of the table."""
    folder = find_split(table.parent, split) or next(
        (place for place in (table.parent / "images", table.with_suffix("")) if place.is_dir()), None
    )
    if folder is None:
        raise ValueError(
            f"{table} has no folder of images beside it: expected {split}/ or images/ with 000000000.jpg, .."
        )
    there: dict[int, str] = {}
    for entry in os.scandir(folder):
        stem = Path(entry.name).stem
        if is_image(entry.name) and stem.isdigit():
            there[int(stem)] = entry.name
    files, texts, refused = [], [], []
    for number, caption in enumerate(captions):
        if number in there:
            files.append(there[number])
            texts.append(caption)
        else:
            line = f"{table.name}, line {number + first}"
            refused.append(Refused(line, f"no image of its number in {folder.name}/ ({number})"))
    return _source(table, folder, files, texts, refused, unit_size)


def _source(
    table: Path,
    folder: Path,
    files: list[str],
    captions: Sequence[tuple[str, ...]],
    refused: list[Refused],
    unit_size: int,
) -> FileSource:
    if not files:
        raise ValueError(f"{table} names no image that is in {folder}.")
    return FileSource(folder, files, [0] * len(files), (), captions, refused, unit_size)
