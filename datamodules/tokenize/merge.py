"""All parts of a split to one store."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.files import work_lock
from datamodules.store_folder import META
from datamodules.store_format import StoreMeta, read_meta
from datamodules.store_writer import StoreWriter
from datamodules.tokenize.plan import Plan, part_path, parts_folder, read_part, read_plan

log = logging.getLogger(__name__)
SPARE = 64 << 20
"""Bytes that must stay free beside the store."""
ABANDONED = 3600.0
"""Seconds without a change after which an unfinished store is nobody's, where the file system has no locks."""


@dataclass(frozen=True)
class Summary:
    """What became of a source.

    Attributes:
        images: in the store.
        refused: reason -> how many images were left out for it.
        notes: what was unusual -> how many images.
    """

    images: int
    refused: dict[str, int]
    notes: dict[str, int]


def missing_units(out: Path, split: str) -> list[str]:
    """Names of the units whose part is not there yet. Raises as `read_plan` does."""
    folder = parts_folder(out, split)
    plan = read_plan(folder)
    return [name for unit, name in enumerate(plan.units) if not part_path(folder, unit).exists()]


def check_place(folder: Path) -> None:
    """Raises ValueError where something else lies in the place of a store, which could not be put there in the end."""
    if folder.exists() and not (folder / META).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is where the store goes, but other files lie there; name another --out.")


def merge(out: Path, split: str) -> Summary:
    """Write the store OUT/SPLIT out of its parts, in the order of the units, and remove the parts.

    What a merge that was killed left behind is removed too. Every image that was left out is named, with the reason, in
    the store's report.json. A store that is there already stays, such as that of another merge at the same time.

    Raises:
        FileNotFoundError: no parts, and no store either.
        ValueError: parts are missing or damaged, nothing usable in them, a key that comes twice, no room on the disk,
            other files in the place of the store.
    """
    check_place(out / split)
    if not out.is_dir():
        raise FileNotFoundError(f"{parts_folder(out, split)} holds no tokenization to go on with.")
    with work_lock(_lock_path(out, split)) as locked:
        _remove_stale(out, split, locked)
        if (out / split / META).is_file():
            shutil.rmtree(parts_folder(out, split), ignore_errors=True)
            return _summary_of(out / split)
        return _merge(out, split)


def _lock_path(out: Path, split: str) -> Path:
    return out / f".{split}.lock"


def _merge(out: Path, split: str) -> Summary:
    folder = parts_folder(out, split)
    if missing := missing_units(out, split):
        raise ValueError(
            f"{len(missing)} parts of {split} are not there yet (first: {missing[0]}); run the missing --shard first."
        )
    plan = read_plan(folder)
    paths = [part_path(folder, unit) for unit in range(len(plan.units))]
    images, refused, notes = _survey(out, paths)
    if not images:
        shutil.rmtree(folder)  # nothing in it that a second attempt could go on from
        _lock_path(out, split).unlink(missing_ok=True)  # whoever waits for it finds no parts
        if not refused:
            where = f" in {plan.units[0]}{', ..' if len(plan.units) > 1 else ''}" if plan.units else ""
            raise ValueError(f"No images of {split} were found{where}; name the right folder with --source.")
        reasons = "; ".join(f"{key}: {reason}" for key, reason in refused[:3])
        raise ValueError(f"None of the {len(refused):,} images of {split} could be used ({reasons}); no store is made.")
    summary = Summary(images, _count(refused), dict(notes))
    _check_room(out, plan, images)
    _write(out / split, plan, paths, summary, refused)
    shutil.rmtree(folder, ignore_errors=True)
    return summary


def _remove_stale(out: Path, split: str, locked: bool) -> None:
    """Remove the unfinished stores of merges that were killed. Without locks one may be at work: spare the young."""
    for stale in (path for path in out.glob(f".{split}.*") if path.is_dir()):
        with suppress(FileNotFoundError):  # finished meanwhile
            touched = max(path.stat().st_mtime for path in (stale, *stale.iterdir()))
            if locked or time.time() - touched > ABANDONED:
                shutil.rmtree(stale, ignore_errors=True)


def _summary_of(folder: Path) -> Summary:
    """What a finished store says of itself."""
    meta, _ = read_meta(folder)
    report = folder / "report.json"
    told = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    return Summary(meta.count, _count(told.get("refused", [])), told.get("notes", {}))


def _count(refused: list[list[str]]) -> dict[str, int]:
    return dict(Counter(_kind(reason) for _, reason in refused).most_common())


def _write(folder: Path, plan: Plan, paths: list[Path], summary: Summary, refused: list[list[str]]) -> None:
    with StoreWriter(folder, _meta(plan, summary)) as writer:
        writer.extra["report.json"] = json.dumps(
            {"images": summary.images, "refused": refused, "notes": summary.notes}, indent=1, ensure_ascii=False
        )
        for path in paths:
            part = read_part(path)
            writer.append(part.codes, np.asarray(part.labels, np.int32), part.captions, part.keys)


def _survey(out: Path, paths: list[Path]) -> tuple[int, list[list[str]], Counter[str]]:
    """Number of images, everything refused, and notes, of all parts."""
    images, refused, notes, seen = 0, [], Counter[str](), set()
    for path in paths:
        part = read_part(path, codes=False)
        images += len(part.keys)
        refused += part.refused
        notes.update(part.notes)
        for key in part.keys:
            if key in seen:
                raise ValueError(f"The image {key} comes twice in the source of {out}; remove one of them.")
            seen.add(key)
    return images, refused, notes


def _meta(plan: Plan, summary: Summary) -> StoreMeta:
    source = {
        "dataset": plan.dataset,
        "split": plan.split,
        "fingerprint": plan.source,
        "classes": plan.class_names,
        "views": plan.views,
        "image_size": plan.image_size,
        "exif": plan.exif,
        "tokenizer": plan.tokenizer,
        "tokenizer_settings": plan.settings,
        "refused": sum(summary.refused.values()),
    }
    shape = tuple(plan.codes_shape)
    length = shape[1] * shape[2] if plan.latents else shape[0]
    return StoreMeta(
        summary.images,
        len(plan.views),
        length,
        plan.vocab_size,
        plan.tokenizer_fingerprint,
        source,
        shape if plan.latents else (),
    )


def _check_room(out: Path, plan: Plan, images: int) -> None:
    needed = images * len(plan.views) * math.prod(plan.codes_shape) * 2 + SPARE
    if (free := shutil.disk_usage(out).free) < needed:
        raise ValueError(
            f"The store {out / plan.split} needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; the "
            "parts are kept, free some space and run merge again."
        )


def _kind(reason: str) -> str:
    """A reason without what is special to one image."""
    return reason.partition(":")[0].partition(" (")[0]
