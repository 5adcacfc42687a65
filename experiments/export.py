"""Samples for other people's evaluators: one .npz in ADM's layout, or a folder of PNG files.

Drawn in parts that several jobs can share and that survive a kill; whoever draws the last one puts them together.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.files import work_lock
from experiments.advice import check_trained
from experiments.conditions import Conditions, evaluation_conditions
from experiments.config import to_dict
from experiments.errors import UserError
from experiments.evaluation import draw_share, drawer
from experiments.files import atomic_path, atomic_write_json, atomic_write_text, read_json
from experiments.pictures import write_png
from experiments.process import device_of, prepare_process
from experiments.run_config import RunConfig
from experiments.shards import Shards
from experiments.snapshots import snapshot_step
from experiments.store import Run

Kind = Literal["npz", "png"]
RECORD = "samples.json"
"""What the samples in a folder are of; written last."""


def share_of_evaluation(config: RunConfig, run: Run, share: tuple[int, int]) -> None:
    """Draw one share of the images that `ablate evaluate` measures; it finds them when it comes to sampling."""
    prepare_process(config)
    check_trained(run)
    evaluation = run.prepare_evaluation(config)
    if not evaluation.is_done():
        draw_share(config, run, evaluation, *share)


def export_samples(
    config: RunConfig, run: Run, kind: Kind, folder: Path, count: int, seed: int, share: tuple[int, int] | None = None
) -> list[Path]:
    """Draw images 0 to count - 1, labels balanced over the classes, and write them.

    Args:
        kind: "npz": samples_<N>x<H>x<W>x3.npz with arr_0 uint8 (N, H, W, 3) and, of classes, arr_1 int64 (N,), as ADM's
            scripts write and its evaluator reads; "png": 000000.png and so on. Captions, or the labels of PNG files,
            stand beside them in samples.csv.
        seed: image i depends on (seed, i) and its condition alone.
        share: (i, k): draw the i-th of k shares only, the others being drawn elsewhere; None = all.

    Returns:
        What was written, now or before by another share; nothing as long as other shares are missing.

    Raises:
        UserError: the run is not trained, or `folder` holds other samples, or parts of others.
    """
    prepare_process(config)
    check_trained(run)
    origin = {"run": run.id, "sampler": to_dict(config)["sampler"], "seed": seed, "count": count}
    origin |= {**_captions(config), **_snapshot(config)}
    if names := _already(folder / RECORD, {**origin, "kind": kind}):
        return [folder / name for name in names]
    shards = Shards(folder / "shards", count)
    _check_origin(shards.folder / "origin.json", origin)
    conditions = evaluation_conditions(config, device_of(config), count)
    worker, workers = share or (0, 1)
    shards.fill(drawer(config, run, conditions, seed), worker, workers, alone=True)
    with work_lock(shards.folder / "lock"):  # of shares that end together, one puts the images together
        if names := _already(folder / RECORD, {**origin, "kind": kind}):
            shards.remove()  # with the lock, and what this share began after the other one was through
            return [folder / name for name in names]
        if shards.missing():
            return []
        for torn in folder.glob(f".*.{kind}"):  # by a kill: evaluators take every image of a folder, these too
            torn.unlink()
        images, _ = shards.gather()
        written = _write_npz(folder, images, conditions) if kind == "npz" else _write_pngs(folder, images, conditions)
        names = [path.name for path in written]
        atomic_write_json(folder / RECORD, {**origin, "kind": kind, "files": names})
        shards.remove()
    return written


def _captions(config: RunConfig) -> dict[str, Any]:
    """What the captions are, and so the labels that stand beside them; nothing for a run on classes, of which run and
    count tell."""
    keys = ("prompts", "prompt_fingerprint", "dataset", "dataset_fingerprint")
    on_class = config.generator.condition == "class"
    return {} if on_class else {"captions": {key: getattr(config.evaluation, key) for key in keys}}


def _snapshot(config: RunConfig) -> dict[str, int]:
    """The step of the weights, where they are not those that the run ends with."""
    step = snapshot_step(config)
    return {} if step is None else {"step": step}


def _already(path: Path, origin: dict[str, Any]) -> list[str]:
    """Names of the files that were written of just these samples, in this form; none if one is gone.

    Raises:
        UserError: they are of other samples, which would stay between the new ones.
    """
    if not path.exists():
        return []
    record = read_json(path)
    names, form = record.pop("files", []), record.get("kind")
    if record != {**origin, "kind": form}:
        raise UserError(
            f"{path.parent} holds other samples (see {path.name}); name another folder, or remove it first."
        )
    return names if form == origin["kind"] and all((path.parent / name).exists() for name in names) else []


def _check_origin(path: Path, origin: dict[str, Any]) -> None:
    if path.exists() and read_json(path) != origin:
        raise UserError(f"{path.parent} holds parts of other samples (see {path.name}); name another folder.")
    atomic_write_json(path, origin)


def _write_npz(folder: Path, images: np.ndarray, conditions: Conditions) -> list[Path]:
    path = folder / f"samples_{'x'.join(map(str, images.shape))}.npz"
    arrays = (images,) if conditions.captions else (images, conditions.labels)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, *arrays)
    return [path, *(_write_list(folder, conditions, []) if conditions.captions else ())]


def _write_pngs(folder: Path, images: np.ndarray, conditions: Conditions) -> list[Path]:
    names = [f"{i:06d}.png" for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        write_png(image, folder / name)
    return [*(folder / name for name in names), *_write_list(folder, conditions, names)]


def _write_list(folder: Path, conditions: Conditions, names: list[str]) -> list[Path]:
    """samples.csv: image by image its file (of PNGs), label and caption (where there are captions)."""
    columns = {"file": names, "label": conditions.labels.tolist(), "caption": list(conditions.captions)}
    columns = {name: values for name, values in columns.items() if values}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    atomic_write_text(folder / "samples.csv", text.getvalue())
    return [folder / "samples.csv"]
