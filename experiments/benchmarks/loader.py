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
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch

from experiments.benchmarks.bench import Bench, Row
from experiments.benchmarks.loader_contenders import (
    LITDATA,
    OPENING,
    STORE,
    WEBDATASET,
    write_litdata,
    write_store_of,
    write_webdataset,
)
from experiments.benchmarks.measure import floor_ms, machine, rotated, row
from experiments.errors import UserError

log = logging.getLogger(__name__)
VOCAB = 16384
BINS = 1000
COLD: Final = "cold"
WARM: Final = "warm"
STORED_BYTES, GIVEN_BYTES = 2, 8
"""Of a token in a store, and in a batch."""
ROUNDS = 3
"""Times that every contender is opened; each round begins with another."""
EXPLAINED = (
    "ms and samples/s: mean over a round's batches after the first; the median of the rounds, as of all columns. From "
    f"opening: over the first {OPENING} batches, with all that comes before the first. Peak and growth: private memory "
    "of all processes, at the end and since an eighth of the time. Shuffle: distinct thousandths of the data in a "
    "batch, over those of an exact permutation. Floor: a batch's tokens read as stored and written as int64, at the "
    "measured bandwidth."
)


def loader(
    samples: int = 1_281_167,
    length: int = 256,
    batch: int = 256,
    workers: Sequence[int] = (0, 2, 4),
    seconds: float = 6.0,
    scratch: str = "",
    phases: Sequence[Literal["cold", "warm"]] = (COLD, WARM),
    peers: Sequence[Literal["webdataset", "litdata"]] = (WEBDATASET, LITDATA),
) -> Bench:
    """seconds: time spent per contender, number of workers and phase, in three rounds of at least 100 batches. scratch:
    folder for 4 GB, for a while."""
    if samples < 2 * batch:
        raise UserError(
            f"samples={samples} are fewer than two batches of {batch}, and the first only opens the loader: choose "
            f"samples={2 * batch} or more, or a smaller batch."
        )
    title = f"Loading {samples:,} x {length} tokens, shuffled, batches of {batch}"
    bench = Bench("loader", title, baseline=STORE, machine=machine(torch.get_num_threads()), notes=[EXPLAINED])
    names = {STORE: STORE}
    for package in peers:
        try:
            names[package] = f"{package} {version(package)}"
        except PackageNotFoundError:
            bench.notes.append(f"{package} is not installed: pip install {package}")
    floor = floor_ms(bench.machine, multiply_adds=0, bytes_moved=batch * length * (STORED_BYTES + GIVEN_BYTES))
    folder = Path(tempfile.mkdtemp(prefix="ablate-loader-", dir=scratch or None))
    try:
        folders = _write(folder, list(names), samples, length)
        for count in workers:
            for phase in phases:
                found: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
                for first in range(ROUNDS):
                    for contender in rotated(list(folders), first):
                        result = _run(contender, folders[contender], batch, count, seconds / ROUNDS, phase)
                        found[names[contender]].append(result)
                bench.rows += _rows(f"{count} workers", phase, found, samples, batch, floor)
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


def _rows(
    case: str, phase: str, found: dict[str, list[dict[str, Any]]], samples: int, batch: int, floor: float | None
) -> list[Row]:
    """Time per batch over a whole round; single batches say little where workers run ahead."""
    times = {name: [1e3 * statistics.fmean(result["batch_s"]) for result in rounds] for name, rounds in found.items()}
    rows = []
    for name, rounds in found.items():
        ratios = [own / base for own, base in zip(times[name], times[STORE], strict=True)]
        peak = int(_median(rounds, lambda result: result["memory_late"]))
        extra = {
            "samples/s": 1e3 * batch / statistics.median(times[name]),
            "samples/s from opening": _median(rounds, lambda r: batch * r["opening_batches"] / r["opening_s"]),
            "first batch s": _median(rounds, lambda r: r["first_batch_s"]),
            "shuffle %": _median(rounds, lambda r: 100 * batch_spread(np.array(r["labels"]), samples)),
            "growth MiB": _median(rounds, lambda r: (r["memory_late"] - r["memory_early"]) / 2**20),
            "of an epoch %": _median(rounds, lambda r: 100 * batch * (1 + len(r["batch_s"])) / samples),
        }
        measured = row(case, phase, name, times[name], ratios=ratios, peak_bytes=peak, floor_ms=floor)
        rows.append(replace(measured, extra=extra))
    return rows


def _median(rounds: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(map(value, rounds))


def batch_spread(labels: np.ndarray, samples: int) -> float:
    """Quality of a shuffle: distinct thousandths of the data in a batch, over those expected of an exact permutation.

    Args:
        labels: (batches, B) numbers of samples.
    """
    bins = labels * BINS // samples
    distinct = np.mean([len(np.unique(row)) for row in bins])
    return float(distinct / (BINS * (1 - (1 - 1 / BINS) ** labels.shape[1])))
