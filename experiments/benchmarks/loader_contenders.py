"""Loaders that read the same tokens: this project's store, webdataset shards, litdata chunks.

Run as a process of its own, `python -m experiments.benchmarks.loader_contenders '{"contender": .., "folder": .., ..}'`
opens a loader, takes batches from it for a while, and prints what it measured as JSON.

Shapes: N samples, L tokens, B batch.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

STORE = "this project"
WEBDATASET: Final = "webdataset"
LITDATA: Final = "litdata"
SHARD = 8192
"""Samples of a shard or chunk; 4 MB."""
SHUFFLE_BUFFER = 5000
"""Samples that webdataset shuffles among, as its own examples have it."""
OPENING = 100
"""Batches of the rate that a user who opens the loader sees, start-up included."""


# --- writing ----------------------------------------------------------------------------------------------------------


def write_store_of(folder: Path, tokens: np.ndarray, vocab_size: int) -> None:
    """A token store; labels are the numbers of the samples, so that the order in which they come can be seen."""
    from datamodules.store_format import StoreMeta
    from datamodules.store_writer import StoreWriter

    count, length = tokens.shape
    with StoreWriter(folder, StoreMeta(count, 1, length, vocab_size, "synthetic", {})) as writer:
        for start in range(0, count, SHARD):
            part = tokens[start : start + SHARD]
            writer.append(part[:, None], np.arange(start, start + len(part)), [["-"]] * len(part))


def write_webdataset(folder: Path, tokens: np.ndarray) -> None:
    """Tar shards with one member per sample, label first, as small as the format allows: 1.5 KB for 256 tokens."""
    folder.mkdir(parents=True)
    info = tarfile.TarInfo()
    for start in range(0, len(tokens), SHARD):
        with open(folder / f"{start // SHARD:05d}.tar", "wb") as stream:
            for i, row in enumerate(tokens[start : start + SHARD], start):
                content = i.to_bytes(4, "little") + row.tobytes()
                info.name, info.size = f"{i:08d}.bin", len(content)
                stream.write(info.tobuf(tarfile.USTAR_FORMAT))
                stream.write(content + bytes(-len(content) % 512))
            stream.write(bytes(1024))


def write_litdata(folder: Path, store: Path, count: int) -> None:
    """Chunks for its TokensLoader, its fastest; every sample is its tokens and two words of label."""
    from functools import partial

    import litdata
    from litdata.streaming.item_loader import TokensLoader

    litdata.optimize(
        partial(_chunk, store),
        list(range(0, count, SHARD)),
        str(folder),
        chunk_size=SHARD * (_length(store) + 2),
        num_workers=1,
        item_loader=TokensLoader(),
        reorder_files=False,
        verbose=False,
    )


def _chunk(store: Path, start: int) -> Any:
    import torch

    tokens = np.load(store / "tokens.npy", mmap_mode="r")[start : start + SHARD, 0]
    labels = np.arange(start, start + len(tokens), dtype="<u4").view("<u2").reshape(-1, 2)
    return torch.from_numpy(np.concatenate([labels, tokens], 1).ravel())


def _length(store: Path) -> int:
    return np.load(store / "tokens.npy", mmap_mode="r").shape[2]


# --- reading ----------------------------------------------------------------------------------------------------------


def open_loader(contender: str, folder: Path, batch_size: int, workers: int) -> Iterable[Any]:
    """Shuffled batches {"tokens": (B, L) int64, "label": (B,) int64}."""
    return {STORE: _store, WEBDATASET: _webdataset, LITDATA: _litdata}[contender](folder, batch_size, workers)


def _store(folder: Path, batch_size: int, workers: int) -> Iterable[Any]:
    from datamodules.datasets import TokenDataset
    from datamodules.loader import ResumableLoader
    from datamodules.readahead import read_ahead
    from datamodules.sampler import EpochSampler
    from datamodules.store import TokenStore

    store = TokenStore(folder)
    read_ahead(folder / store.meta.codes_file)
    dataset = TokenDataset(store)
    return ResumableLoader(dataset, EpochSampler(len(dataset), batch_size, seed=0), workers)


def _webdataset(folder: Path, batch_size: int, workers: int) -> Iterable[Any]:
    import webdataset

    shards = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0, empty_check=False)
    batches = dataset.shuffle(SHUFFLE_BUFFER).map(_parse).batched(batch_size, collation_fn=_collate, partial=False)
    return webdataset.WebLoader(batches, batch_size=None, num_workers=workers)


def _parse(sample: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(sample["bin"], "<u2")


def _litdata(folder: Path, batch_size: int, workers: int) -> Iterable[Any]:
    import litdata
    from litdata.streaming.item_loader import TokensLoader

    width = json.loads((folder / "width.json").read_text(encoding="utf-8"))
    dataset = litdata.StreamingDataset(
        str(folder), item_loader=TokensLoader(width), shuffle=True, drop_last=True, seed=0
    )
    return litdata.StreamingDataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=_collate)


def _collate(rows: list[Any]) -> dict[str, Any]:
    import torch

    stacked = np.stack([np.asarray(row) for row in rows])
    labels = np.ascontiguousarray(stacked[:, :2]).view("<u4")[:, 0].astype(np.int64)
    return {"tokens": torch.from_numpy(stacked[:, 2:].astype(np.int64)), "label": torch.from_numpy(labels)}


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(contender: str, folder: str, batch_size: int, workers: int, seconds: float) -> dict[str, Any]:
    """Batches for `seconds` after the first, but at least `OPENING`, and at most one epoch.

    Returns:
        first_batch_s and, for the first `OPENING` batches or an epoch, opening_s, from opening the loader, and how many
        batches these were; seconds of each batch after the first; private memory of all processes after an eighth of
        the time and at the end; labels of the first batches, and whether labels fit the tokens.
    """
    import torch  # noqa: F401  (before the clock)

    if contender != STORE:
        __import__(contender)
    began = time.perf_counter()
    batches = iter(open_loader(contender, Path(folder), batch_size, workers))
    batch = next(batches)
    first = opening = time.perf_counter() - began
    times, labels, fits, early = [], [batch["label"].numpy()], _fits(batch), 0
    start = last = time.perf_counter()
    for batch in batches:
        now = time.perf_counter()
        times.append(now - last)
        if len(times) < OPENING:
            opening = now - began
        if len(labels) < 64:
            labels.append(batch["label"].numpy())
            fits &= _fits(batch)
        if not early and now - start > seconds / 8:
            early = private_bytes()
        if now - start > seconds and len(times) + 1 >= OPENING:
            break
        last = time.perf_counter()
    return {
        "first_batch_s": first,
        "opening_s": opening,
        "opening_batches": min(OPENING, 1 + len(times)),
        "batch_s": times,
        "memory_early": early or private_bytes(),
        "memory_late": private_bytes(),
        "labels": np.stack(labels).tolist(),
        "fits": bool(fits),
    }


def _fits(batch: dict[str, Any]) -> bool:
    """The synthetic tokens begin with the sample's number."""
    low = batch["tokens"][:, 0] + (batch["tokens"][:, 1] << 14)
    return bool((low == batch["label"]).all())


def private_bytes() -> int:
    """Memory of this process and its children that no other shares and no file backs (RssAnon)."""
    total = 0
    for pid in [os.getpid(), *_children(os.getpid())]:
        try:
            match = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
        except OSError:
            continue
        total += int(match[1]) * 1024 if match else 0
    return total


def _children(pid: int) -> list[int]:
    try:
        found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]
    except OSError:
        return []
    return found + [grandchild for child in found for grandchild in _children(child)]


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))), flush=True)
    os._exit(0)  # peers' threads may not end by themselves
