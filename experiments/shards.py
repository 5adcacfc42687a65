"""The images of one evaluation in parts, so that many processes can draw them and none is drawn twice after a kill.

Image i depends on (seed, i) and its condition alone, so a part is the same whoever draws it, and parts need no owner:
every process draws its own share first, then whatever is still missing, from the end backwards, so that it meets the
others late. Where two do meet, one file replaces its twin.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import UserError
from experiments.files import atomic_path, reading

SHARD = 1024
Draw = Callable[[range], tuple[np.ndarray, float]]
"""Indices -> images (len, H, W, 3) uint8, and the seconds that drawing them took."""


def parse_share(word: str) -> tuple[int, int]:
    """ "2/8" -> (2, 8): the third of eight shares. Raises UserError for anything else."""
    first, _, second = word.partition("/")
    if first.isdecimal() and second.isdecimal() and int(first) < int(second):
        return int(first), int(second)
    raise UserError(f"--shard '{word}' is not I/K with I from 0 to K - 1, for example 0/8 for the first of eight.")


class Shards:
    """Parts of `SHARD` images, each a file of its own.

    Args:
        folder: theirs alone.
        count: N.
    """

    def __init__(self, folder: Path, count: int):
        self.folder, self.count = folder, count
        self.spans = [range(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]

    def path(self, span: range) -> Path:
        """The file of one part: images (n, H, W, 3) uint8, seconds, and, as JSON, what it was drawn with."""
        return self.folder / f"{span.start:08d}-{span.stop:08d}.npz"

    def missing(self) -> list[range]:
        """The parts that nobody has drawn yet."""
        return [span for span in self.spans if not self.path(span).exists()]

    @property
    def done(self) -> int:
        """Images drawn so far, whoever did."""
        return self.count - sum(map(len, self.missing()))

    def fill(
        self,
        draw: Draw,
        worker: int = 0,
        workers: int = 1,
        alone: bool = False,
        needless: Callable[[], bool] = lambda: False,
        drawn_with: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Draw the parts of this worker, then help with those of the others, until none is missing.

        Args:
            worker, workers: this one's number, and how many there are; part k belongs to worker k mod `workers`.
            alone: leave the others' parts to them.
            needless: asked before every part; once it says so, no more are drawn.
            drawn_with: asked after every part; says what this process ran with.
        """
        own = self.spans[worker::workers]
        others = [] if alone else [span for span in reversed(self.spans) if span not in own]
        for span in own + others:
            if needless():
                return
            if not self.path(span).exists():
                images, seconds = draw(span)
                with atomic_path(self.path(span)) as temporary, open(temporary, "wb") as file:
                    np.savez(file, images=images, seconds=seconds, drawn_with=json.dumps(drawn_with()))

    def gather(self) -> tuple[np.ndarray, float]:
        """All images (N, H, W, 3) uint8 in order, and the seconds of all processes together."""
        result, seconds = None, 0.0
        for span in self.spans:
            with self._reading(span) as file:
                part = file["images"]
                seconds += float(file["seconds"])
            if result is None:
                result = np.empty((self.count, *part.shape[1:]), np.uint8)
            result[span.start : span.stop] = part
        assert result is not None
        return result, seconds

    def sampled_by(self) -> list[dict[str, Any]]:
        """What the parts were drawn with, each kind once, with how many images were; of parts that say nothing of it,
        their number alone."""
        counts = Counter[str]()
        for span in self.spans:
            with self._reading(span) as file:
                counts[str(file["drawn_with"]) if "drawn_with" in file else "{}"] += len(span)
        return [{"images": count, **json.loads(record)} for record, count in counts.items()]

    @contextmanager
    def _reading(self, span: range) -> Iterator[Mapping[str, np.ndarray]]:
        path = self.path(span)
        with reading(path, "remove it and run the same command again"), np.load(path) as file:
            yield file

    def remove(self) -> None:
        """Delete the parts."""
        shutil.rmtree(self.folder, ignore_errors=True)
