"""A DataLoader that resumes in the middle of an epoch, to the very batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.sampler import EpochSampler, SequentialSampler


class BatchedDataset(Protocol):
    """A data set that is asked for whole batches.

    A store of another kind (object storage, larger than memory) joins here.
    """

    views: int
    """V, stored variants of each sample."""

    def __len__(self) -> int:
        """Samples times views."""

    def __getitem__(self, rows: np.ndarray) -> dict[str, Any]:
        """rows: (B,) int64, index * views + view -> one collated batch."""


class ResumableLoader(DataLoader):
    """Batches of `dataset` in the order of `sampler`, with the position in `state_dict`.

    Lightning stores the state with its checkpoints and hands it back on resume. What counts is batches handed out,
    not indices drawn: workers run ahead of training. Every iteration starts at the current position and ends with
    the epoch, so a position is never lost, whether an epoch was cut short by a limit, an exception or a checkpoint.
    """

    def __init__(self, dataset: BatchedDataset, sampler: EpochSampler, num_workers: int = 0, pin_memory: bool = False):
        self.position = sampler
        super().__init__(dataset, sampler=sampler, **_options(num_workers, pin_memory))

    def __iter__(self) -> Iterator[dict[str, Any]]:
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
    dataset: BatchedDataset, sampler: SequentialSampler, num_workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """The loader for validation: the same batches every time."""
    return DataLoader(dataset, sampler=sampler, **_options(num_workers, pin_memory))


def _options(num_workers: int, pin_memory: bool) -> dict[str, Any]:
    return {
        "batch_size": None,  # the sampler draws whole batches, the data set returns them collated
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": pin_memory,
        "generator": torch.Generator(),  # else every iteration takes a number from the global stream of the model
    }
