"""Reference statistics out of a collection of images, or out of the reconstructions of a store.

Shapes: B images, S pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.sources.folders import FileSource
from datamodules.sources.open import ANY_LABEL, open_source
from datamodules.sources.records import Record, Refused, Source
from datamodules.store import TokenStore
from datamodules.tokenize.crops import Crops
from datamodules.tokenize.images import applies_exif
from datamodules.tokenize.prepare import Preparation, Prepared, preparer
from datamodules.tokenize.progress import counting
from lightning_modules.metrics.features import efficientnet_extractor, inception_extractor
from lightning_modules.metrics.statistics import ReferenceStatistics, collect_statistics, write_statistics

log = logging.getLogger("ablate")
Batch = tuple[np.ndarray, np.ndarray]
"""Images (B, S, S, 3) uint8, and their labels (B,)."""


@dataclass(frozen=True)
class ReferenceJob:
    """What statistics are made of; see the options of `ablate reference`."""

    dataset: str
    source: Path
    out: Path
    split: str = "val"
    size: int = 256
    crop: str = "adm"
    exif: bool | None = None
    count: int = 0
    seed: int = 0
    keep: int = 10_000
    classes: int = 0
    inception_weights: Path | None = None
    batch_size: int = 64
    workers: int = 0
    device: str = "cpu"


def make_reference(job: ReferenceJob, decode: Callable[[Any], Any] | None = None) -> ReferenceStatistics:
    """Compute and write the statistics.

    Args:
        decode: of the tokenizer of a store, (B, L) or (B, C, h, w) -> (B, S, S, 3) uint8; for `dataset` store.

    Raises:
        ValueError, FileNotFoundError: a source that does not fit, more images asked for than there are.
    """
    extractors = [efficientnet_extractor()]
    if job.inception_weights:
        extractors.append(inception_extractor(job.inception_weights))
    else:
        log.warning("Without --inception-weights the reference serves FD-EffLite0 only, not FID.")
    if job.dataset == "store":
        assert decode is not None
        store = TokenStore(job.source / job.split)
        name, batches = f"reconstructions of {job.source.name}/{job.split}", _decoded(store, job, decode)
        classes = store.meta.source.get("classes", [])
    else:
        source = open_source(job.dataset, job.source, job.split, _classes(job))
        name, batches = f"{job.dataset}/{job.split}, {job.crop} crop, {job.size} pixels", _cropped(source, job)
        classes = source.class_names if len(source.class_names) < ANY_LABEL else ()
    made = collect_statistics(name, batches, extractors, job.keep, job.batch_size, job.device, classes)
    if job.count:  # of which broken ones were left out
        made = replace(made, name=f"{name}, {made.count} images by seed {job.seed}")
    write_statistics(job.out, made)
    return made


def _classes(job: ReferenceJob) -> int:
    """Classes to read labels of: where nobody says how many there are, none is left out (ImageNet's are known)."""
    return job.classes or (0 if job.dataset == "imagenet" else ANY_LABEL)


def _cropped(source: Source, job: ReferenceJob) -> Iterator[Batch]:
    """Batches of the images; broken ones are left out and named in the log."""
    exif = applies_exif(job.dataset, job.exif)
    preparation = Preparation(Crops((job.crop,), False, job.size), exif, _needs_captions(source))
    waiting: list[Prepared] = []
    total = job.count or sum(unit.count or 0 for unit in source.units) or None
    with preparer(preparation, job.workers) as prepare, counting(f"{job.dataset}/{job.split}", total) as counter:
        for image in prepare(_chosen(source, job)):
            counter.add(1, int(isinstance(image, Refused)))
            if isinstance(image, Prepared):
                waiting.append(image)
            else:
                log.warning("left out: %s: %s", image.key, image.reason)
            if len(waiting) == job.batch_size:
                yield _batch(waiting)
                waiting.clear()
    if waiting:
        yield _batch(waiting)


def _batch(images: Sequence[Prepared]) -> Batch:
    return np.stack([image.views[0] for image in images]), np.array([image.label for image in images])


def _needs_captions(source: Source) -> bool:
    """Whether images without a caption are left out, as `ablate tokenize` leaves them out: a store and its reference
    are then of the same images. Shards that hold images alone make references too."""
    return isinstance(source, FileSource) and source.captioned


def _chosen(source: Source, job: ReferenceJob) -> Iterator[Record | Refused]:
    """All records, or `job.count` of them drawn without replacement, in the order of the source."""
    records = (record for unit in range(len(source.units)) for record in source.read(unit))
    if not job.count:
        yield from records
        return
    all_count = not _needs_captions(source)

    def counts(record: Record | Refused) -> bool:
        return isinstance(record, Record) and (all_count or bool(record.captions))

    usable = sum(counts(record) for unit in range(len(source.units)) for record in source.read(unit))
    wanted = set(_drawn(job, usable).tolist())
    number = 0
    for record in records:
        if counts(record):
            if number in wanted:
                yield record
            number += 1


def _drawn(job: ReferenceJob, usable: int) -> np.ndarray:
    """(count,) numbers of images out of `usable`, drawn without replacement. Raises ValueError if there are fewer."""
    if job.count > usable:
        raise ValueError(f"--count {job.count} is more than the {usable} images of {job.dataset}/{job.split}.")
    return np.random.default_rng(job.seed).permutation(usable)[: job.count]


def _decoded(store: TokenStore, job: ReferenceJob, decode: Callable[[Any], Any]) -> Iterator[Batch]:
    """Batches of what a store's first views decode to."""
    index = np.sort(_drawn(job, len(store))) if job.count else np.arange(len(store))
    with counting(f"{job.source.name}/{job.split}", len(index)) as counter:
        for start in range(0, len(index), job.batch_size):
            rows = index[start : start + job.batch_size]
            codes = np.asarray(store.codes[rows, 0])
            codes = codes.astype(np.float32 if store.meta.latent_shape else np.int64)
            yield decode(torch.from_numpy(codes).to(job.device)).cpu().numpy(), np.asarray(store.labels[rows])
            counter.add(len(codes))
