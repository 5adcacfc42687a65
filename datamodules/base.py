"""What every data module does alike: epochs, shuffling, sharding over processes, exact resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.encoder import ImageEncoder
from datamodules.loader import BatchedDataset, ResumableLoader, sequential_loader
from datamodules.sampler import EpochSampler, SequentialSampler
from lightning_modules.text_encoders.ragged import TextEncoder

Split = Literal["train", "val"]


class StreamDataModule(LightningDataModule):
    """Train and validation batches out of one `BatchedDataset` per split, which subclasses open in `setup`.

    The order of the training batches and the choice of stored views depend on (seed, epoch) alone and resume exactly,
    also on another number of processes. Use with `Trainer(use_distributed_sampler=False)`, and do not read
    `trainer.estimated_stepping_batches`: it makes Lightning build the loader early and drop the resumed position.

    Args:
        config: what to load.
        batch_size: samples per process and batch.
        seed: of the order of samples and the choice of views.
        num_workers: threads that read ahead (processes where images are decoded); batches are the same for any number.
        encoder: the tokenizer, or None for pixels where the data has them.
        cache_dir: where stores that are made on the way are kept.
        text_encoder: what makes features of captions, where the condition is a caption.
        accumulate: batches of an optimiser step, as the trainer has it.
    """

    def __init__(
        self,
        config: Any,
        batch_size: int,
        seed: int = 0,
        num_workers: int = 0,
        encoder: ImageEncoder | None = None,
        cache_dir: Path | str = "outputs/cache",
        text_encoder: TextEncoder | None = None,
        accumulate: int = 1,
    ):
        super().__init__()
        self.config = config
        self.batch_size, self.seed, self.num_workers, self.accumulate = batch_size, seed, num_workers, accumulate
        self.encoder = encoder
        self.cache_dir = Path(cache_dir)
        self.text_encoder = text_encoder if config.condition == "caption" else None
        self._datasets: dict[str, BatchedDataset] = {}

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled, endless over epochs, resumable."""
        dataset = self._datasets["train"]
        count = len(dataset) // dataset.views
        sampler = EpochSampler(count, self.batch_size, self.seed, dataset.views, *self._process(), self.accumulate)
        return ResumableLoader(dataset, sampler, self.num_workers, self._pins())

    def val_dataloader(self) -> DataLoader:
        """Every validation image once, first view, always in the same order."""
        dataset = self._datasets["val"]
        sampler = SequentialSampler(len(dataset) // dataset.views, self.batch_size, dataset.views, *self._process())
        return sequential_loader(dataset, sampler, self.num_workers, self._pins())

    def _pins(self) -> bool:
        """Whether batches go to a GPU: pinned memory makes a worker open it."""
        return bool(self.trainer and self.trainer.strategy.root_device.type == "cuda")

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
