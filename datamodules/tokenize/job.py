"""One tokenization from end to end: plan, parts, store."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.sources.open import check_kind, open_divided, open_source
from datamodules.sources.records import UNIT, Source
from datamodules.sources.tar import TarSource
from datamodules.store_folder import META
from datamodules.store_format import codes_shape, read_meta, tokenizer_settings
from datamodules.tokenize.crops import Crops
from datamodules.tokenize.encode import Work, encode_units
from datamodules.tokenize.images import applies_exif
from datamodules.tokenize.merge import Summary, check_place, merge
from datamodules.tokenize.plan import Plan, parts_folder
from datamodules.tokenize.prepare import Preparation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What is tokenised.

    Attributes:
        dataset: one of `datamodules.sources.open.KINDS`.
        source: folder of the images.
        out: folder of the stores; this one becomes OUT/SPLIT.
        split: train, val or test.
        crops: names of crops, see `datamodules.tokenize.crops`.
        flip: mirrored views too.
        exif: apply EXIF orientations; None = see `applies_exif`.
        classes: number of classes of tar shards with .cls files.
        divide: of a folder without splits, a part is held out as val.
        unit_size: images per part, of sources that do not come in files of their own.
    """

    dataset: str
    source: Path
    out: Path
    split: str = "train"
    crops: tuple[str, ...] = ("adm",)
    flip: bool = False
    exif: bool | None = None
    classes: int = 0
    divide: bool = False
    unit_size: int = UNIT

    def __post_init__(self) -> None:
        check_kind(self.dataset)
        if self.divide and self.dataset != "folder":
            raise ValueError(f"--divide is for a plain folder of images; {self.dataset} has splits of its own.")


def tokenize(job: Job, tokenizer: Any, load: Callable[[], Any], work: Work) -> Summary | None:
    """Make the store OUT/SPLIT, or go on with it.

    Args:
        tokenizer: configuration of the tokenizer, with its fingerprint filled in.
        load: gives the tokenizer itself, on `work.device`; only called when there is something to encode.

    Returns:
        a summary, or None where other shards have still to be done, or the store is there already.

    Raises:
        ValueError, FileNotFoundError: a source, settings or images that do not fit, or other files in the place of the
            store, said in words.
    """
    check_place(job.out / job.split)
    crops = Crops(tuple(job.crops), job.flip, tokenizer.image_size)
    if job.divide:
        source = open_divided(job.source, job.split, job.unit_size)
    else:
        source = open_source(job.dataset, job.source, job.split, job.classes, job.unit_size)
    if job.classes and (source.captioned or not isinstance(source, TarSource)):
        raise ValueError(f"--classes is for tar shards with .cls files; {job.source} has none. Leave --classes out.")
    exif = applies_exif(job.dataset, job.exif)
    plan = make_plan(job, source, crops, exif, tokenizer)
    if (job.out / job.split / META).is_file():
        _check_same(job.out / job.split, plan)
        shutil.rmtree(parts_folder(job.out, job.split), ignore_errors=True)  # of a merge that was killed at its end
        log.info("%s is there already", job.out / job.split)
        return None
    preparation = Preparation(crops, exif, source.captioned)
    loaded: list[Any] = []

    def encode(images: Any) -> Any:
        if not loaded:
            loaded.append(load())
        return loaded[0].encode_uint8(images)

    try:
        encode_units(source, plan, preparation, encode, job.out, work)
    except Exception:
        _remove_if_empty(parts_folder(job.out, job.split), work)
        raise
    return merge(job.out, job.split) if work.shard[1] == 1 else None


def make_plan(job: Job, source: Source, crops: Crops, exif: bool, tokenizer: Any) -> Plan:
    """What the store will hold."""
    return Plan(
        dataset=job.dataset,
        split=job.split,
        source=source.fingerprint,
        units=[unit.name for unit in source.units],
        class_names=list(source.class_names),
        views=crops.views,
        image_size=crops.size,
        exif=exif,
        tokenizer=tokenizer.name,
        tokenizer_fingerprint=tokenizer.fingerprint,
        settings=tokenizer_settings(tokenizer),
        vocab_size=tokenizer.vocab_size,
        codes_shape=list(codes_shape(tokenizer)),
    )


def _remove_if_empty(parts: Path, work: Work) -> None:
    """What failed before its first part leaves nothing behind, unless others may be at work on the same folder."""
    if work.shard[1] == 1 and not any(parts.glob("*.npz")):
        shutil.rmtree(parts, ignore_errors=True)


def _check_same(folder: Path, plan: Plan) -> None:
    meta, _ = read_meta(folder)
    for name, found, asked in (
        ("tokenizer weights", meta.tokenizer, plan.tokenizer_fingerprint),
        ("tokenizer settings", meta.source.get("tokenizer_settings"), plan.settings),
        ("views", meta.source.get("views"), plan.views),
        ("image size", meta.source.get("image_size"), plan.image_size),
        ("handling of EXIF orientations", meta.source.get("exif"), plan.exif),
        ("source", meta.source.get("fingerprint"), plan.source),
    ):
        if found != asked:
            raise ValueError(
                f"{folder} is there already, but not with the {name} that this command names; name another --out, or "
                "remove it."
            )
