"""`ablate bench loader`: samples per second out of an ImageNet-size store, against webdataset and litdata.

All read the same synthetic tokens (1,281,167 x 256 uint16, 656 MB), shuffled, in batches of 256, every loader in a
process of its own; the files are written to a scratch folder and removed at the end. Cold: the files were dropped from
the page cache just before; warm: they were read through.

Shapes: N samples, L tokens, B batch.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.bench import Bench, Row
from experiments.benchmarks.loader_contenders import (
    LITDATA,
    STORE,
    WEBDATASET,
    write_litdata,
    write_store_of,
    write_webdataset,
)
from experiments.benchmarks.measure import machine
from experiments.errors import UserError

log = logging.getLogger(__name__)
VOCAB = 16384
BINS = 1000
COLD, WARM = "cold", "warm"
EXPLAINED = (
    "ms: mean time per batch, not median. Peak and growth: private memory of all processes, at the end and since an "
    "eighth of the time. Shuffle: distinct thousandths of the data in a batch, over those of an exact permutation."
)


def loader(
    samples: int = 1_281_167,
    length: int = 256,
    batch: int = 256,
    workers: Sequence[int] = (0, 2, 4),
    seconds: float = 2.0,
    scratch: str = "",
    phases: Sequence[str] = (COLD, WARM),
    peers: Sequence[str] = (WEBDATASET, LITDATA),
) -> Bench:
    """seconds: time spent per contender, number of workers and phase. scratch: folder for 4 GB, for a while."""
    title = f"Loading {samples:,} x {length} tokens, shuffled, batches of {batch}"
    bench = Bench("loader", title, baseline=STORE, machine=machine(torch.get_num_threads()), notes=[EXPLAINED])
    names = {STORE: STORE}
    for package in peers:
        try:
            names[package] = f"{package} {version(package)}"
        except PackageNotFoundError:
            bench.notes.append(f"{package} is not installed: pip install {package}")
    folder = Path(tempfile.mkdtemp(prefix="ablate-loader-", dir=scratch or None))
    try:
        folders = _write(folder, list(names), samples, length)
        for count in workers:
            for phase in phases:
                found = {
                    names[contender]: _run(contender, place, batch, count, seconds, phase)
                    for contender, place in folders.items()
                }
                bench.rows += _rows(f"{count} workers", phase, found, samples, batch)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return bench


def _write(folder: Path, contenders: list[str], samples: int, length: int) -> dict[str, Path]:
    """The same tokens in every contender's format. Row i begins with i, in two words of 14 bits."""
    log.info("writing %d x %d tokens", samples, length)
    tokens = np.random.default_rng(0).integers(0, VOCAB, (samples, length), dtype=np.uint16)
    tokens[:, 0], tokens[:, 1] = np.arange(samples) % VOCAB, np.arange(samples) // VOCAB
    places = {contender: folder / contender.replace(" ", "-") for contender in contenders}
    write_store_of(places[STORE], tokens, VOCAB)
    if WEBDATASET in places:
        write_webdataset(places[WEBDATASET], tokens)
    del tokens
    if LITDATA in places:
        write_litdata(places[LITDATA], places[STORE], samples)
        (places[LITDATA] / "width.json").write_text(json.dumps(length + 2))
    return places


def _run(contender: str, folder: Path, batch: int, workers: int, seconds: float, phase: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    for path in folder.rglob("*"):
        if path.is_file():
            _drop(path) if phase == COLD else path.read_bytes()
    job = {"contender": contender, "folder": str(folder), "batch_size": batch, "workers": workers, "seconds": seconds}
    command = [sys.executable, "-m", "experiments.benchmarks.loader_contenders", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise UserError(f"The loader of {contender} failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    result = json.loads(lines[-1])
    if not result["fits"]:
        raise UserError(f"The loader of {contender} gave labels that do not belong to their tokens.")
    return result


def _drop(path: Path) -> None:
    """Out of the page cache, as far as the system obliges."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)  # pages that are not on disk yet stay
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def _rows(case: str, phase: str, found: dict[str, dict[str, Any]], samples: int, batch: int) -> list[Row]:
    """Time per batch over the whole measurement; quartiles of single batches say little where workers run ahead."""
    mean = {name: 1e3 * statistics.fmean(result["batch_s"]) for name, result in found.items()}
    rows = []
    for name, result in found.items():
        low, _, high = statistics.quantiles(result["batch_s"], n=4)
        rows.append(
            Row(
                case,
                phase,
                name,
                median_ms=mean[name],
                fastest_ms=1e3 * min(result["batch_s"]),
                spread=1e3 * (high - low) / mean[name],
                ratio=mean[name] / mean[STORE],
                rounds=len(result["batch_s"]),
                peak_bytes=result["memory_late"],
                extra={
                    "samples/s": 1e3 * batch / mean[name],
                    "first batch s": result["first_batch_s"],
                    "shuffle %": 100 * batch_spread(np.array(result["labels"]), samples),
                    "growth MiB": (result["memory_late"] - result["memory_early"]) / 2**20,
                    "of an epoch %": 100 * batch * (1 + len(result["batch_s"])) / samples,
                },
            )
        )
    return rows


def batch_spread(labels: np.ndarray, samples: int) -> float:
    """Quality of a shuffle: distinct thousandths of the data in a batch, over those expected of an exact permutation.

    Args:
        labels: (batches, B) numbers of samples.
    """
    bins = labels * BINS // samples
    distinct = np.mean([len(np.unique(row)) for row in bins])
    return float(distinct / (BINS * (1 - (1 - 1 / BINS) ** labels.shape[1])))
