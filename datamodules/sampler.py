"""Which samples an epoch consists of, in which order, and which process sees them.

The order of an epoch is a permutation of all N samples that depends on (seed, epoch) alone. A position in it is
counted in samples consumed by all processes together, so that it keeps its meaning when their number changes.

Batch g of size B on W processes covers permutation[g*B*W : (g+1)*B*W]; process r takes its r-th B of them. A batches
make an optimiser step (gradient accumulation). An epoch ends with a whole step, so that every step is of B*W*A samples
and the samples of a step depend on B*W*A alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datamodules.counts import check_batch


class EpochSampler:
    """Endless (epoch, position) arithmetic for training: an epoch is of whole optimiser steps.

    Up to B*W*A - 1 samples at the end of the permutation are left out of an epoch (other ones in every epoch).

    Args:
        count: N, samples.
        batch_size: B, per process.
        seed: of the order and of the views.
        views: V; each sample has V stored variants, one of which is drawn per (seed, epoch, sample).
        rank, world_size: r, W.
        accumulate: A, batches of a step.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        views: int = 1,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ):
        if not 0 <= rank < world_size:
            raise ValueError(f"Rank {rank} does not exist among {world_size} processes.")
        self.count, self.batch_size, self.seed, self.views = count, batch_size, seed, views
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        check_batch(count, self.global_batch, world_size * accumulate)
        self.epoch, self.consumed = 0, 0
        self._batch = 0  # of the step that begins at `consumed`

    @property
    def global_batch(self) -> int:
        """B*W*A, the samples of an optimiser step."""
        return self.batch_size * self.world_size * self.accumulate

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.count // self.global_batch * self.accumulate

    def __iter__(self) -> Iterator[np.ndarray]:
        """Batches from the current position to the end of the epoch: (B,) int64, index * views + view.

        Iterating does not move the position: with workers, indices are drawn long before their batch is used.
        """
        return self._batches(self.epoch, self.consumed, self._batch)

    def _batches(self, epoch: int, consumed: int, skip: int) -> Iterator[np.ndarray]:
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(self.count)
        order = order * self.views + generator.integers(self.views, size=self.count)
        end = self.count - (self.count - consumed) % self.global_batch
        width = self.batch_size * self.world_size
        for start in range(consumed + skip * width, end, width):
            mine = start + self.rank * self.batch_size
            yield order[mine : mine + self.batch_size]

    def advance(self) -> None:
        """Count one batch of every process as consumed; after the last whole step comes the next epoch."""
        self._batch += 1
        if self._batch == self.accumulate:
            self._batch = 0
            self.consumed += self.global_batch
            self._wrap()

    def state_dict(self) -> dict[str, int]:
        """The position after the last whole step; the same on every process."""
        return {"epoch": self.epoch, "consumed": self.consumed, "count": self.count, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position, saved under any number of processes and any batch size.

        Raises:
            ValueError: the position belongs to other data or another seed.
        """
        for key in ("count", "seed"):
            if state[key] != getattr(self, key):
                raise ValueError(
                    f"The checkpoint was trained on data with {key} {state[key]}, this run has {key} "
                    f"{getattr(self, key)}; resume with the configuration the checkpoint was made with."
                )
        self.epoch, self.consumed, self._batch = state["epoch"], state["consumed"], 0
        self._wrap()

    def _wrap(self) -> None:
        if self.consumed + self.global_batch > self.count:
            self.epoch, self.consumed = self.epoch + 1, 0


class SequentialSampler:
    """Every sample once, in stored order, first view; for validation.

    Sharded by rows r, r + W, r + 2W, ...; processes that would get fewer repeat the last sample, so that all do
    equally many steps. Arguments as in `EpochSampler`.
    """

    def __init__(self, count: int, batch_size: int, views: int = 1, rank: int = 0, world_size: int = 1):
        if count < 1:
            raise ValueError("There are no samples to go through.")
        rows = -(-count // world_size)
        self.rows = np.minimum(np.arange(rows) * world_size + rank, count - 1) * views
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self.rows), self.batch_size):
            yield self.rows[start : start + self.batch_size]
