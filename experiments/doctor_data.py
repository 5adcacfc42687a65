"""Checks of a data folder: finished stores, unfinished ones, or images to tokenize; what is missing, in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from datamodules.online_config import IMAGENET_CLASSES
from datamodules.sources.coco import annotation_file
from datamodules.sources.imagenet import SYNSET, ground_truth, images_folder, synsets
from datamodules.sources.lists import list_file
from datamodules.sources.open import ANY_LABEL, open_source
from datamodules.sources.parquet import parquet_files
from datamodules.sources.records import Record, Refused, Source, find_split
from datamodules.sources.tar import has_labels, tar_files
from datamodules.store import TokenStore
from datamodules.store_folder import META
from datamodules.tokenize.images import decode_image
from datamodules.tokenize.merge import missing_units
from datamodules.tokenize.plan import parts_folder, read_plan
from experiments.doctor import Finding

SPLITS = ("train", "val", "test")
EXPECTED = {("imagenet", "train"): 1_281_167, ("imagenet", "val"): 50_000}
LOOKED_AT = 8


def examine_data(folder: Path) -> list[Finding]:
    """All findings on a folder: of its stores if it has any, else of its images."""
    if not folder.is_dir():
        return [Finding("broken", "data folder", f"{folder} does not exist", "name another folder")]
    made = [split for split in SPLITS if (folder / split / META).is_file() or parts_folder(folder, split).is_dir()]
    if made:
        return [_store(folder, split) for split in SPLITS if split in made or split != "test"]
    if not any(path.is_file() for path in folder.rglob("*")):
        return [Finding("broken", "data folder", f"{folder} holds no files", "name another folder")]
    kind = guess_kind(folder)
    findings = [Finding("ok", "data folder", f"{folder} looks like {kind}")]
    for split in SPLITS:
        findings += _images(kind, folder, split)
    return findings


def guess_kind(folder: Path) -> str:
    """Which data set a folder of images is, by its layout."""
    if any(annotation_file(folder, split) for split in ("train", "val")):
        return "coco"
    names = synsets(folder)
    if (names and all(SYNSET.fullmatch(name) for name in names)) or (
        (images := images_folder(folder, "val")) and ground_truth(folder, images)
    ):
        return "imagenet"
    if _labelled_shards(folder):  # of how many classes, they do not say
        return "folder"
    if any(tar_files(folder, split) or list_file(folder, split) for split in SPLITS):
        return "cc3m"
    files = parquet_files(folder, "train") or parquet_files(folder, "val")
    if files:
        return _kind_of_parquet(folder)
    return "folder"


def _kind_of_parquet(folder: Path) -> str:
    try:
        source = open_source("cc3m", folder, "train" if parquet_files(folder, "train") else "val")
    except (ValueError, OSError):
        return "cc3m"
    if source.captioned:
        return "cc3m"
    return "imagenet" if len(source.class_names) == IMAGENET_CLASSES else "folder"


def _labelled_shards(folder: Path) -> bool:
    return any(has_labels(files[0]) for split in SPLITS if (files := tar_files(folder, split)))


def _store(folder: Path, split: str) -> Finding:
    part = f"store {split}"
    parts = parts_folder(folder, split)
    if not (folder / split / META).is_file():
        if not parts.is_dir():
            return Finding(
                "broken", part, f"no {folder / split}", f"ablate tokenize ... --split {split} --out {folder}"
            )
        try:
            missing, total = missing_units(folder, split), len(read_plan(parts).units)
        except (ValueError, OSError) as error:
            return Finding("broken", part, str(error), "see there")
        if missing:
            found = f"unfinished: {total - len(missing)} of {total} parts; the first that lacks: {missing[0]}"
            return Finding("broken", part, found, "the same `ablate tokenize` command goes on")
        way_out = f"ablate tokenize merge --out {folder} --split {split}"
        return Finding("broken", part, f"all {total} parts are there but not merged", way_out)
    try:
        store = TokenStore(folder / split)
    except (ValueError, OSError) as error:
        return Finding("broken", part, str(error), "see there")
    meta = store.meta
    what = f"latents {'x'.join(map(str, meta.latent_shape))}" if meta.latent_shape else f"{meta.length} tokens"
    refused = meta.source.get("refused", 0)
    found = f"{meta.count:,} images x {meta.views} views of {what}, {meta.source.get('tokenizer', 'unknown tokenizer')}"
    return Finding("ok", part, found + (f"; {refused:,} were left out, see report.json" if refused else ""))


def _images(kind: str, folder: Path, split: str) -> list[Finding]:
    part, labelled = f"{kind}/{split}", _labelled_shards(folder)
    try:
        source = open_source(kind, folder, split, classes=ANY_LABEL if labelled else 0)
    except (ValueError, OSError) as error:
        if split == "test":  # few have one, and ImageNet's has no labels
            unneeded = Finding("optional", part, str(error), "leave it so: nothing needs a test split")
            return [unneeded] if find_split(folder, split) else []
        way_out = _command(kind, folder, split) if split == "val" and _undivided(kind, folder) else ""
        return [Finding("broken" if split == "train" or kind == "imagenet" else "optional", part, str(error), way_out)]
    counts = [unit.count for unit in source.units]
    known = None if None in counts else sum(count or 0 for count in counts)
    found = f"{len(counts)} shards" if known is None else f"{known:,} images"
    found += (
        ", labels" if labelled else f", {len(source.class_names):,} classes" if source.class_names else ", captions"
    )
    lacks = []
    if known is not None and known != (expected := EXPECTED.get((kind, split), known)):
        lacks.append(f"{expected:,} images were expected")
    if kind == "imagenet" and len(source.class_names) != IMAGENET_CLASSES:
        lacks.append(f"{IMAGENET_CLASSES:,} classes were expected")
    lacks += _look(source)
    state: Literal["ok", "optional"] = "optional" if lacks else "ok"
    return [Finding(state, part, found + "".join(f"; {lack}" for lack in lacks), _command(kind, folder, split))]


def _look(source: Source) -> list[str]:
    """Whether the first images can be used."""
    problems, seen, opened = [], 0, 0
    for record in source.read(0):
        seen, opened = seen + 1, opened + isinstance(record, Record)
        if reason := _unusable(record, source.captioned):
            problems.append(f"{record.key}: {reason}")
        if opened == LOOKED_AT:
            break
    if not seen:
        return [f"no images in {source.units[0].name}"]
    if not problems:
        return []
    more = f" and {len(problems) - 1} more of the first {seen}" if len(problems) > 1 else ""
    return [re.sub(r"\s+", " ", f"unusable: {problems[0]}{more}")]


def _unusable(record: Record | Refused, captioned: bool) -> str:
    """Why an image would be left out, or ""."""
    if not isinstance(record, Record):
        return record.reason
    try:
        decode_image(record.read(), record.key)
    except (ValueError, OSError) as error:
        return str(error)
    return "no caption" if captioned and not any(record.captions) else ""


def _undivided(kind: str, folder: Path) -> bool:
    tables = any(parquet_files(folder, split) or tar_files(folder, split) for split in SPLITS)
    return kind == "folder" and not tables and not any(find_split(folder, split) for split in SPLITS)


def _command(kind: str, folder: Path, split: str) -> str:
    how = "--divide" if _undivided(kind, folder) else f"--split {split}"
    how += " --classes N" if _labelled_shards(folder) else ""
    return f"ablate tokenize {kind} --source {folder} --out STORES {how}"
