"""ImageNet-1k as batches of tokens out of memory-mapped stores.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.config import ImageNetConfig
from datamodules.datasets import TokenDataset
from datamodules.loader import ResumableLoader, sequential_loader
from datamodules.sampler import EpochSampler, SequentialSampler
from datamodules.store import TokenStore


class ImageNetDataModule(LightningDataModule):
    """Batches {"tokens": (B, L) int64, "label": (B,) int64} of the stores `root`/train and `root`/val.

    A store may hold several views of every image (flips, ten crops); each epoch draws one of them per image. Order and
    views depend on (seed, epoch) alone and resume exactly. Arguments are those of `EmojiDataModule`; the encoder only
    says which tokenizer the stores must have been made with.

    Raises:
        ValueError: no root named, or stores that are damaged or were made with another tokenizer.
        FileNotFoundError: no stores under the root.
    """

    def __init__(
        self,
        config: ImageNetConfig,
        batch_size: int,
        seed: int = 0,
        num_workers: int = 0,
        encoder: Any = None,
        cache_dir: Path | str = "outputs/cache",
    ):
        super().__init__()
        if not config.root:
            raise ValueError(
                "The data set imagenet needs data.root=FOLDER with the token stores train/ and val/; "
                "datamodules.store.write_store makes them from arrays of tokens and labels."
            )
        if encoder is None:
            raise ValueError("The data set imagenet holds tokens, so it cannot train a tokenizer.")
        self.config = config
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.stores = {split: self._open(split, encoder) for split in ("train", "val")}

    def _open(self, split: str, encoder: Any) -> TokenStore:
        store = TokenStore(Path(self.config.root) / split)
        if store.meta.tokenizer != encoder.fingerprint:
            raise ValueError(
                f"{store.folder} was made with the tokenizer {store.meta.tokenizer[:12] or 'unknown'}, the run has "
                f"{encoder.fingerprint[:12]}; name that file with tokenizer.weights, or tokenize again."
            )
        return store

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled, endless over epochs, resumable."""
        store = self.stores["train"]
        index = None
        if self.config.subset:
            index = np.sort(np.random.default_rng(0).permutation(len(store))[: self.config.subset])
        dataset = TokenDataset(store, index)
        sampler = EpochSampler(
            len(dataset) // dataset.views, self.batch_size, self.seed, dataset.views, *self._process()
        )
        return ResumableLoader(dataset, sampler, self.num_workers, torch.cuda.is_available())

    def val_dataloader(self) -> DataLoader:
        """Every validation image once, first view, always in the same order."""
        dataset = TokenDataset(self.stores["val"])
        sampler = SequentialSampler(len(self.stores["val"]), self.batch_size, dataset.views, *self._process())
        return sequential_loader(dataset, sampler, self.num_workers, torch.cuda.is_available())

    @staticmethod
    def reference(config: ImageNetConfig) -> Any:
        """Raises ValueError: real images do not travel with tokens."""
        raise ValueError(
            "ImageNet tokens carry no real images to measure against; sample with ablate sample and use the ADM "
            "evaluator on its images."
        )

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
