"""One record to pixels and clean captions: the work of a decoding process. Imports no torch."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process

import numpy as np

from datamodules.sources.records import Record, Refused, is_unicode
from datamodules.tokenize.captions import clean_caption
from datamodules.tokenize.crops import Crops
from datamodules.tokenize.images import decode_image

AHEAD = 16
"""Images in work or waiting, per process."""


@dataclass(frozen=True)
class Prepared:
    """An image ready to be encoded.

    Attributes:
        key, label: of the record.
        captions: clean, none of them empty.
        views: (V, S, S, 3) uint8.
        notes: what was unusual.
    """

    key: str
    label: int
    captions: tuple[str, ...]
    views: np.ndarray
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Preparation:
    """How records are made ready.

    Attributes:
        crops: which views.
        exif: turn images as their EXIF orientation says.
        captioned: refuse images without a caption.
    """

    crops: Crops
    exif: bool
    captioned: bool

    def __call__(self, record: Record | Refused) -> Prepared | Refused:
        """Never raises for what is wrong with the record itself."""
        if isinstance(record, Refused):
            return Refused(_printable(record.key), _printable(record.reason))
        if not is_unicode(record.key):
            return Refused(ascii(record.key), "name that is not UTF-8")
        try:
            content = record.read()
        except FileNotFoundError:
            return Refused(record.key, "file not found")
        except OSError as error:
            return Refused(record.key, f"cannot be read: {error.strerror or error}")
        try:
            image, notes = decode_image(content, record.key, self.exif)
        except ValueError as error:
            return Refused(record.key, str(error))
        # After the image: a broken one that lacks its caption too must not pass for one that a caption would fix.
        cleaned = [clean_caption(text) for text in record.captions]
        captions = tuple(text for text, _ in cleaned if text)
        if self.captioned and not captions:
            return Refused(record.key, "empty caption" if record.captions else "no caption")
        if min(image.size) < self.crops.size:
            notes.append("enlarged")
        notes += [note for _, found in cleaned for note in found]
        views = self.crops(image, record.key)
        return Prepared(record.key, record.label, captions, views, tuple(dict.fromkeys(notes)))


def _printable(text: str) -> str:
    return text if is_unicode(text) else ascii(text)


def _end_with_parent() -> None:
    """Let a decoding process end when the one that started it is killed; the pool alone would wait for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Preparer:
    """Applies a `Preparation` to records, in their order, in this process or ahead in others. Make with `preparer`."""

    def __init__(self, preparation: Preparation, pool: ProcessPoolExecutor | None, ahead: int):
        self.preparation, self.pool, self.ahead = preparation, pool, ahead

    def __call__(self, records: Iterable[Record | Refused]) -> Iterator[Prepared | Refused]:
        """Raises ValueError if a decoding process dies."""
        if self.pool is None:
            yield from map(self.preparation, records)
            return
        waiting: deque[Future[Prepared | Refused]] = deque()
        try:
            for record in records:
                waiting.append(self.pool.submit(self.preparation, record))
                if len(waiting) >= self.ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ValueError(
                "A decoding process died, most likely for lack of memory; the same command goes on, best with fewer "
                "--workers."
            ) from error


@contextmanager
def preparer(preparation: Preparation, workers: int) -> Iterator[Preparer]:
    """A `Preparer` with `workers` processes; 0 = none."""
    if not workers:
        yield Preparer(preparation, None, 0)
        return
    # Started afresh, not forked: a forked copy of a process that uses a GPU is not usable.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent)
    try:
        yield Preparer(preparation, pool, AHEAD * workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
