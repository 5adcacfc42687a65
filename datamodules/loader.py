"""A DataLoader that resumes in the middle of an epoch, to the very batch.

Stores are read by threads: numpy lets go of the interpreter while it copies out of a memory map, and nothing has to be
handed from one process to another, which takes 20 times as long as the copying (`ablate bench loader`). Decoding images
is work for processes.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.sampler import EpochSampler, SequentialSampler

AHEAD = 4
"""Batches in work or waiting, per thread."""


class BatchedDataset(Protocol):
    """A data set that is asked for whole batches.

    A store of another kind (object storage, larger than memory) joins here.
    """

    views: int
    """V, stored variants of each sample."""
    in_processes: bool
    """Whether workers are processes, for what keeps the interpreter busy; threads suffice to read memory maps."""

    def __len__(self) -> int:
        """Samples times views."""

    def __getitem__(self, rows: np.ndarray) -> dict[str, Any]:
        """rows: (B,) int64, index * views + view -> one collated batch."""


class ResumableLoader(DataLoader):
    """Batches of `dataset` in the order of `sampler`, with the position in `state_dict`.

    Lightning stores the state with its checkpoints and hands it back on resume. What counts is batches handed out,
    not indices drawn: workers run ahead of training. Every iteration starts at the current position and ends with
    the epoch, so a position is never lost, whether an epoch was cut short by a limit, an exception or a checkpoint.

    Args:
        workers: threads that read ahead, or processes (`dataset.in_processes`); batches are the same for any number.
    """

    def __init__(self, dataset: BatchedDataset, sampler: EpochSampler, workers: int = 0, pin_memory: bool = False):
        self.position = sampler
        super().__init__(**_options(dataset, sampler, workers, pin_memory))

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # torch names a private class
        batches = super().__iter__()  # outside the generator: workers start now, at the position of now
        return self._counted(batches)

    def _counted(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for batch in batches:
            self.position.advance()  # before the yield: a checkpoint in this batch's step resumes after it
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The position; the same on every process."""
        return self.position.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position. Takes effect with the next iteration."""
        self.position.load_state_dict(state)


def sequential_loader(
    dataset: BatchedDataset, sampler: SequentialSampler, workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """The loader for validation: the same batches every time."""
    return DataLoader(**_options(dataset, sampler, workers, pin_memory))


class _ReadAhead:
    """As a sampler: batches that threads are reading already, in order. As a data set: the batch once it is read."""

    def __init__(self, dataset: BatchedDataset, sampler: Any, threads: int):
        self.dataset, self.sampler, self.threads = dataset, sampler, threads

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Future[dict[str, Any]]]:
        return self._futures(iter(self.sampler))  # at the position of now

    def _futures(self, batches: Iterator[np.ndarray]) -> Iterator[Future[dict[str, Any]]]:
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="loader")
        waiting: deque[Future[dict[str, Any]]] = deque()
        try:
            for rows in batches:
                waiting.append(pool.submit(self.dataset.__getitem__, rows))
                if len(waiting) >= AHEAD * self.threads:
                    yield waiting.popleft()
            yield from waiting
        finally:
            pool.shutdown(cancel_futures=True)

    def __getitem__(self, future: Future[dict[str, Any]]) -> dict[str, Any]:
        return future.result()


def _options(dataset: BatchedDataset, sampler: Any, workers: int, pin_memory: bool) -> dict[str, Any]:
    processes = workers if dataset.in_processes else 0
    ahead = _ReadAhead(dataset, sampler, workers) if workers and not processes else None
    return {
        "dataset": ahead or dataset,
        "sampler": ahead or sampler,
        "batch_size": None,  # the sampler draws whole batches, the data set returns them collated
        "num_workers": processes,
        "persistent_workers": processes > 0,
        # Workers inherit what is done about signals; Python 3.14 would start them in another way.
        "multiprocessing_context": "fork" if processes and sys.platform == "linux" else None,
        "pin_memory": pin_memory,
        "generator": torch.Generator(),  # else every iteration takes a number from the global stream of the model
    }
