"""Run folders as the suite leaves them, written by hand, so that reports are tested without training anything."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from reports.layout import parse_layout
from reports.measured import with_measured
from reports.records import collect
from reports.subject import Subject
from sweeps.planner import Cell

SCHEMES = ("group_v1", "group_v2", "serial_v1", "serial_v2")
FD = {"group_v1": 131.0, "group_v2": 142.0, "serial_v1": 124.0, "serial_v2": 112.0}
KEY = "generator.hybrid_scheme"
REPORT: dict[str, Any] = {
    "rows": "hybrid_scheme",
    "columns": [
        "parameters",
        {"metric": "fd_efflite0", "best": "lower", "format": ".1f", "paper": "fid"},
        "kid_efflite0",
        "seconds_per_image",
    ],
    "baseline": {"hybrid_scheme": "serial_v2"},
    "reference": "maskmamba.table3",
    "figure": [
        {"kind": "bars", "y": "fd_efflite0"},
        {"kind": "curves", "y": "train/loss"},
        {"kind": "pareto", "x": "seconds_per_image", "y": "fd_efflite0"},
    ],
}


def cell_of(labels: Mapping[str, str], seed: int = 0, overrides: Mapping[str, Any] | None = None) -> Cell:
    """A planned cell with readable ids."""
    name = ",".join([*(f"{axis}={label}" for axis, label in labels.items()), f"seed={seed}"])
    run_id = "-".join(["fake", *labels.values(), f"s{seed}"])
    return Cell(
        sweep="fake-hybrid-schemes",
        scale="demo",
        labels=labels,
        seed=seed,
        preset="maskmamba/demo",
        overrides={**(overrides or {}), "seed": seed},
        group=run_id,
        run_id=run_id,
        eval_id=f"{hash_text(name):08x}",
        max_steps=400,
        name=name,
    )


def hash_text(text: str) -> int:
    """A hash that is the same in every process."""
    return zlib.crc32(text.encode())


def config_of(cell: Cell) -> dict[str, Any]:
    """A stored configuration, as far as reports look at it."""
    return {
        "preset": "maskmamba/demo",
        "seed": cell.seed,
        "data": {"name": "emoji", "fingerprint": "d" * 64},
        "tokenizer": {"name": "emoji_vq", "fingerprint": "f" * 64},
        "generator": {"name": "maskmamba", "width": 256, **{a: v for a, v in cell.labels.items()}},
        "trainer": {"max_steps": 400, "precision": "fp32"},
        "sampler": {"name": "maskgit", "steps": 20, "guidance": 3.0},
        "evaluation": {"num_samples": 512, "seed": 0, "batch_size": 128},
        "runtime": {"root": "outputs", "device": "cpu"},
    }


def provenance_of(cell: Cell) -> dict[str, Any]:
    return {
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "git_dirty": False,
        "git_diff_sha256": None,
        "preset": "maskmamba/demo",
        "seed": cell.seed,
        "data_fingerprint": "d" * 64,
        "tokenizer_fingerprint": "f" * 64,
        "precision": "fp32",
        "backends": {"selective_scan": "cpp", "depthwise_conv1d": "cpp"},
        "hardware": {"cpu": "Test CPU", "cores": 2, "gpus": [], "host": "here"},
        "versions": {"python": "3.12.0", "torch": "2.9.0"},
        "attempts": 1,
        "command": "ablate run fake",
    }


def write_run(root: Path, cell: Cell, fd: float = 120.0, **changes: Any) -> Path:
    """Write a finished training and its evaluation.

    Args:
        changes: replaces dotted keys: "config.trainer.max_steps", "run.step", "run.provenance.git_commit",
            "evaluation.protocol.num_samples" and so on, with __ for the dots.
    """
    origin = provenance_of(cell)
    parts: dict[str, Any] = {
        "config": config_of(cell),
        "run": {
            "schema": 1,
            "run_id": cell.run_id,
            "step": 400,
            "max_steps": 400,
            "metrics": {"train/loss": 3.1, "val/loss": 3.4, "val/accuracy": 0.21},
            "parameters": 2_100_000 + 1000 * SCHEMES.index(cell.labels.get("hybrid_scheme", "serial_v2")),
            "train_seconds": 81.5,
            "samples_per_s": 470.0,
            "peak_memory_bytes": 900_000_000,
            "provenance": origin,
        },
        "evaluation": {
            "schema": 1,
            "eval_id": cell.eval_id,
            "run_id": cell.run_id,
            "metrics": {
                "fd_efflite0": fd,
                "kid_efflite0": (fd - 60) / 1000,
                "kid_efflite0_std": 0.002,
                "memorisation_rate": 0.01,
                "seconds_per_image": 0.02 + fd / 1e4,
            },
            "protocol": {
                "num_samples": 512,
                "reference": "emoji/train (3416 images)",
                "reference_fingerprint": "r" * 64,
                "extractor": "efficientnet-lite0",
                "extractor_sha256": "e" * 64,
                "floor": {"fd_efflite0": 41.5, "kid_efflite0": -0.0004},
                "sampler": {"name": "maskgit", "steps": 20, "guidance": 3.0},
            },
            "provenance": origin,
        },
    }
    parts = json.loads(json.dumps(parts))
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        node = parts
        for key in path:
            node = node[key]
        node[last] = value
    folder = root / "runs" / cell.run_id
    evaluated = folder / "evaluations" / cell.eval_id
    evaluated.mkdir(parents=True, exist_ok=True)
    for target in (folder, evaluated):
        (target / "config.yaml").write_text(yaml.safe_dump(parts["config"], sort_keys=False))
    (folder / "result.json").write_text(json.dumps(parts["run"]))
    (evaluated / "result.json").write_text(json.dumps(parts["evaluation"]))
    lines = (
        {"step": step, "time": 1e9 + step, "train/loss": 5.5 * math.exp(-step / 150) + 2.5 + fd / 1e3}
        for step in range(20, 401, 20)
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_samples(evaluated / "samples.npz", cell.run_id)
    return folder


def write_samples(path: Path, name: str, count: int = 36, classes: int = 9) -> None:
    """Random images with labels 0, 1, .., 8, 0, .."""
    draw = np.random.default_rng(hash_text(name))
    images = draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    np.savez_compressed(path, arr_0=images, labels=np.arange(count) % classes)


def write_status(root: Path, cell: Cell, **status: Any) -> None:
    """Write a training that is not finished."""
    folder = root / "runs" / cell.run_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config_of(cell), sort_keys=False))
    (folder / "status.json").write_text(json.dumps({"step": 0, "max_steps": 400, "updated_at": 0, **status}))


def cells_of(seeds: Sequence[int] = (0,)) -> list[Cell]:
    """The cells of the four hybrid schemes."""
    return [cell_of({"hybrid_scheme": s}, seed, {KEY: s}) for s in SCHEMES for seed in seeds]


def subject(root: Path, cells: Sequence[Cell] | None = None, **changes: Any) -> Subject:
    """The subject of a sweep over the four hybrid schemes; `changes` replace what it is made of."""
    parts: dict[str, Any] = {
        "name": "fake-hybrid-schemes",
        "scale": "demo",
        "title": "Hybrid schemes of MaskMamba",
        "reproduces": "Does it matter how Mamba and Transformer layers are combined?",
        "citation": "MaskMamba, arXiv 2409.19937v1",
        "in_paper": "Table 3",
        "url": "",
        "root": root,
        "report": REPORT,
        "axes": {"hybrid_scheme": SCHEMES},
        "declared": [KEY],
        **changes,
    }
    layout = parse_layout(parts.pop("report"), parts.pop("axes"))
    records = tuple(collect(cells_of() if cells is None else cells, root))
    parts = {"slug": f"{parts['name']}-{parts['scale']}", **parts, "declared": frozenset(parts["declared"])}
    return Subject(**parts, layout=with_measured(layout, records), records=records)


def finished(root: Path, seeds: Sequence[int] = (0,)) -> Subject:
    """A sweep that is done; the seeds of a row differ a little."""
    for cell in cells_of(seeds):
        write_run(root, cell, fd=FD[cell.labels["hybrid_scheme"]] + 1.5 * cell.seed)
    return subject(root, cells_of(seeds))
