"""Parquet files in the layout of the Hugging Face hub: an image column {bytes, path}, a label or a caption column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from datamodules.sources.records import SPLIT_FOLDERS, Record, Refused, Unit, digest_of, texts_of

IMAGES, LABELS, CAPTIONS = (
    ("image", "img", "jpg", "png"),
    ("label", "labels", "cls"),
    ("caption", "text", "txt", "captions"),
)
"""Column names looked for, in this order."""


def parquet_files(folder: Path, split: str) -> list[Path]:
    """The files of a split: SPLIT-*.parquet or SPLIT/*.parquet, in the folder or in its data/."""
    for name in SPLIT_FOLDERS.get(split, (split,)):
        for place in (folder, folder / "data"):
            found = [
                *place.glob(f"{name}-*.parquet"),
                *place.glob(f"{name}.parquet"),
                *(place / name).glob("*.parquet"),
            ]
            if found:
                return sorted(found)
    return []


class ParquetSource:
    """Rows of parquet files; every row group is a unit.

    Args:
        files: in the order of the store.
        labelled: whether a column of labels must be there.

    Raises:
        ValueError: pyarrow is not installed, a damaged file, or a column that is not there.
    """

    def __init__(self, files: Sequence[Path], labelled: bool = False):
        self.files = files
        metadata = [_open(file).metadata for file in files]
        columns = _open(files[0]).schema_arrow.names
        self.image = _column(files[0], columns, IMAGES, "image")
        self.label = _column(files[0], columns, LABELS, "label" if labelled else "")
        self.caption = _column(files[0], columns, CAPTIONS)
        if not self.label and not self.caption:
            raise ValueError(
                f"{files[0]} has the columns {', '.join(columns)}: neither labels nor captions among them."
            )
        self.groups = [(file, group) for file, data in enumerate(metadata) for group in range(data.num_row_groups)]
        self.units = [
            Unit(f"{files[file].name}, row group {group}", metadata[file].row_group(group).num_rows)
            for file, group in self.groups
        ]
        self.class_names: Sequence[str] = _class_names(files, self.label) if self.label else ()
        self.captioned = bool(self.caption) and not self.label
        self.fingerprint = digest_of(f"{file.name} {file.stat().st_size}" for file in files)

    def read(self, index: int) -> Iterator[Record | Refused]:
        """The rows of one row group, refused as a whole if it is damaged. Images that are paths lie beside the file."""
        from pyarrow import ArrowException

        number, group = self.groups[index]
        file = self.files[number]
        wanted = [name for name in (self.image, self.label, self.caption) if name]
        try:
            rows = _open(file).read_row_group(group, columns=wanted).to_pylist()
        except (ArrowException, OSError, UnicodeDecodeError) as error:
            yield Refused(self.units[index].name, f"damaged, its {self.units[index].count} rows are lost ({error})")
            return
        for row, values in enumerate(rows):
            key = f"{file.name}/{group}/{row}"
            content = _content(values[self.image], file.parent)
            label = values[self.label] if self.label else 0
            if content is None:
                yield Refused(key, "no image in this row")
            elif label is None or label < 0:
                yield Refused(key, f"label {label} is no class (a split without labels?)")
            else:
                try:
                    captions = texts_of(values.get(self.caption))
                except ValueError as error:
                    yield Refused(key, f"annotation cannot be read ({error})")
                    continue
                yield Record(key, int(label), captions, content)


def _open(file: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(f"{file} is a parquet file, which needs pyarrow: pip install pyarrow.") from error
    try:
        return ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{file} is damaged or no parquet file ({error}).") from error


def _column(file: Path, columns: list[str], usual: Sequence[str], kind: str = "") -> str:
    """The first column with a usual name, or ""; where a `kind` is named, it must be there."""
    found = next((name for name in usual if name in columns), "")
    if kind and not found:
        raise ValueError(
            f"{file} has the columns {', '.join(columns)}: no {kind} column ({', '.join(usual)}) among them."
        )
    return found


def _content(value: Any, folder: Path) -> bytes | Path | None:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return folder / value if isinstance(value, str) else value


def _class_names(files: Sequence[Path], label: str) -> list[str]:
    """Names out of the hub's own metadata, else the numbers up to the largest label."""
    schema = _open(files[0]).schema_arrow
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    if names := info.get("info", {}).get("features", {}).get(label, {}).get("names"):
        return list(names)
    import pyarrow

    if not pyarrow.types.is_integer(kind := schema.field(label).type):
        raise ValueError(f"{files[0]}: the labels in column {label} are of type {kind}; they must be whole numbers.")
    largest = -1
    for file in map(_open, files):
        for group in range(file.num_row_groups):
            with suppress(pyarrow.ArrowException, OSError):  # `read` refuses that group
                labels = file.read_row_group(group, columns=[label])[label].drop_null()
                largest = max(largest, int(labels.to_numpy().max(initial=-1)))
    return [str(number) for number in range(largest + 1)]
