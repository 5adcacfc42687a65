"""The work proper: every unit of a source to a part, batch by batch on a device, resumable unit by unit.

Shapes: B images, V views, S pixels, L tokens, (C, h, w) latents.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.sources.records import Source
from datamodules.tokenize.plan import Part, Plan, agree, part_path, parts_folder, write_part
from datamodules.tokenize.prepare import Preparation, Prepared, Preparer, preparer
from datamodules.tokenize.progress import counting
from lightning_modules.precision import exact_float32

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """How the work is done; nothing of it changes the store.

    Attributes:
        batch_size: images (times V views) that are encoded at a time.
        workers: decoding processes; 0 = decode in this one.
        device: where the tokenizer runs.
        on_error: leave broken images out, counted and named, or stop at the first.
        shard: (I, N): of N processes this one takes the units I, I + N, ..
    """

    batch_size: int = 64
    workers: int = 0
    device: str = "cpu"
    on_error: Literal["skip", "stop"] = "skip"
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        number, count = self.shard
        if count < 1:
            raise ValueError(f"--shard {number}/{count}: the second number says among how many; it is at least 1.")
        if not 0 <= number < count:
            raise ValueError(f"--shard {number}/{count}: shards are numbered 0 to {count - 1} of {count}.")
        if self.batch_size < 1 or self.workers < 0:
            raise ValueError("--batch-size must be at least 1 and --workers at least 0.")


def encode_units(
    source: Source,
    plan: Plan,
    preparation: Preparation,
    encode: Callable[[Tensor], Tensor],
    out: Path,
    work: Work,
) -> int:
    """Make the parts of this process that are not there yet.

    Args:
        encode: (B, S, S, 3) uint8 on the device -> (B, L) integers or (B, C, h, w) floating point.

    Returns:
        how many were made.

    Raises:
        ValueError: an image is broken and `work.on_error` is stop, or an encoder's output that does not fit the plan.
        OSError: a folder that cannot be written, a full disk. What is done stays; the same command goes on.
    """
    folder = parts_folder(out, plan.split)
    folder.mkdir(parents=True, exist_ok=True)
    agree(folder, plan)
    number, count = work.shard
    mine = [unit for unit in range(number, len(source.units), count) if not part_path(folder, unit).exists()]
    sizes = [source.units[unit].count for unit in mine]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    with (
        preparer(preparation, work.workers) as prepare,
        counting(f"{plan.dataset}/{plan.split}", total, len(mine)) as counter,
    ):
        for unit in mine:
            made, failed = 0, 0
            for part in _encode_unit(source, unit, plan, prepare, encode, work):
                counter.add(len(part.keys) + len(part.refused) - made - failed, len(part.refused) - failed)
                made, failed = len(part.keys), len(part.refused)
            write_part(part_path(folder, unit), part)
            counter.end_part()
    return len(mine)


def _encode_unit(
    source: Source, unit: int, plan: Plan, prepare: Preparer, encode: Callable[[Tensor], Tensor], work: Work
) -> Iterator[Part]:
    """The growing part of one unit, after every batch; the last one is complete.

    A batch never reaches over the end of a unit, so a part does not depend on which others were made before it.
    """
    views = len(plan.views)
    dtype = np.float16 if plan.latents else np.uint16
    part, notes = Part(np.empty(0)), Counter[str]()
    codes: list[np.ndarray] = []
    waiting: list[Prepared] = []
    per_batch = max(1, work.batch_size // views)

    def flush() -> None:
        codes.append(_encode_batch(waiting, plan, encode, work).astype(dtype))
        for image in waiting:
            part.keys.append(image.key)
            part.labels.append(image.label)
            part.captions.append(list(image.captions))
            notes.update(image.notes)
        waiting.clear()

    for image in prepare(source.read(unit)):
        if isinstance(image, Prepared):
            waiting.append(image)
        elif work.on_error == "stop":
            raise ValueError(
                f"{image.key}: {image.reason}. What is done is kept: the same command goes on once that is fixed, or "
                "with --on-error skip, which leaves such images out."
            )
        else:
            part.refused.append([image.key, image.reason])
        if len(waiting) == per_batch:
            flush()
            yield part
    if waiting:
        flush()
    part.codes = np.concatenate(codes) if codes else np.empty((0, views, *plan.codes_shape), dtype)
    part.notes = dict(sorted(notes.items()))
    yield part


@torch.inference_mode()
def _encode_batch(images: list[Prepared], plan: Plan, encode: Callable[[Tensor], Tensor], work: Work) -> np.ndarray:
    """B images of V views -> (B, V, L) or (B, V, C, h, w)."""
    pixels = torch.from_numpy(np.concatenate([image.views for image in images])).to(work.device)
    # A sub-batch per batch_size, for V > batch_size. TF32 would change tokens near ties.
    with exact_float32(pixels.device):
        codes = torch.cat([encode(chunk) for chunk in pixels.split(work.batch_size)])
    expected = (len(pixels), *plan.codes_shape)
    if tuple(codes.shape) != expected:
        raise ValueError(f"The tokenizer made {tuple(codes.shape)} of {len(pixels)} images; {expected} was expected.")
    if plan.latents and not torch.isfinite(codes.half()).all():
        raise ValueError(f"The tokenizer made latents of {images[0].key} or its neighbours that 16 bits cannot hold.")
    if not plan.latents and not (0 <= codes.min() and codes.max() < plan.vocab_size):
        raise ValueError(f"The tokenizer made tokens outside its vocabulary of {plan.vocab_size}.")
    return codes.reshape(len(images), len(plan.views), *plan.codes_shape).cpu().numpy()
