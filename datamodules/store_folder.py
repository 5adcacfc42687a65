"""What stores of tokens and stores of text share: a folder of memory-mapped files, and a meta.json that describes them.

A store is complete or absent: it is written beside its place and moved there in one step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

if TYPE_CHECKING:
    import numpy as np

META = "meta.json"
T = TypeVar("T")


@dataclass(frozen=True)
class StoreKind:
    """One kind of store.

    Attributes:
        name: as errors call it.
        again: what makes one anew.
        version: of the layout.
    """

    name: Literal["token", "text"]
    again: Literal["tokenize", "encode"]
    version: int

    @property
    def header(self) -> dict[str, Any]:
        """What meta.json begins with."""
        return {"format": f"ablate-{self.name}-store", "version": self.version}

    def read(self, folder: Path, parse: Callable[[dict[str, Any]], T]) -> T:
        """What `parse` makes of meta.json, which may raise KeyError or TypeError for a damaged one.

        Raises:
            FileNotFoundError: no store there.
            ValueError: a damaged or foreign meta.json.
        """
        path = folder / META
        if not path.is_file():
            raise FileNotFoundError(f"No {self.name} store at {folder}: it has no {META}.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format", None) != self.header["format"]:
                raise ValueError(f"{path} does not describe a {self.name} store.")
            if (version := content.pop("version", None)) != self.version:
                raise ValueError(
                    f"The {self.name} store {folder} has format version {version}, this code reads {self.version}."
                )
            return parse(content)
        except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, TypeError, KeyError) as error:
            raise self.damaged(folder, f"{META} is not valid") from error

    def damaged(self, folder: Path, what: str) -> ValueError:
        """The error for a store of which something is wrong."""
        return ValueError(
            f"The {self.name} store {folder} is damaged: {what}; delete the folder and {self.again} again."
        )


class MappedStore:
    """Read access to a store. Cheap to open and to send to worker processes: files are mapped on first use."""

    kind: ClassVar[StoreKind]
    folder: Path

    def __getstate__(self) -> dict[str, Any]:
        """Without what is mapped."""
        mapped = [name for name in self.__dict__ if isinstance(getattr(type(self), name, None), cached_property)]
        return {name: value for name, value in self.__dict__.items() if name not in mapped}

    def _map(self, name: str, mapped: bool = True) -> np.ndarray:
        """An array of the store, in memory where it is not to be `mapped`, as one without elements cannot be."""
        import numpy as np  # configurations read meta.json without it

        try:
            return np.load(self.folder / name, mmap_mode="r" if mapped else None)
        except (OSError, ValueError) as error:
            raise self._damaged(f"{name} is not a numpy file ({error})") from error

    def _damaged(self, what: str) -> ValueError:
        return self.kind.damaged(self.folder, what)


def commit_folder(temporary: Path, folder: Path) -> None:
    """Flush a finished store's files to disk and move it into place. If another process was faster, its store stays."""
    for path in temporary.iterdir():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    temporary.chmod(0o755)
    try:
        os.rename(temporary, folder)
    except OSError:
        if not (folder / META).is_file():
            raise
