"""The emoji data as batches of tokens, or of pixels for training a tokenizer.

Shapes: B batch, L tokens, N images, V views (2 with flip, else 1), H = W = 32.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.config import EmojiConfig
from datamodules.datasets import ImageDataset, TokenDataset
from datamodules.emoji.data import EmojiImages, Split, load_emoji
from datamodules.emoji.reference import emoji_reference
from datamodules.emoji.subset import choose_subset
from datamodules.files import work_lock
from datamodules.loader import BatchedDataset, ResumableLoader, sequential_loader
from datamodules.sampler import EpochSampler, SequentialSampler
from datamodules.store import TokenStore, write_store
from datamodules.text_store import TextStore, cached_text_store
from lightning_modules.metrics.reference import ReferenceSet
from lightning_modules.text_encoders.ragged import TextEncoder

log = logging.getLogger(__name__)
ENCODE_BATCH = 128


@dataclass(frozen=True)
class ImageEncoder:
    """The half of a frozen tokenizer that a data module needs.

    Attributes:
        encode: images (B, H, W, 3) uint8 -> tokens (B, L) int64, on any device.
        fingerprint: identifies the weights; a token store belongs to one fingerprint.
        vocab_size: tokens are in [0, vocab_size).
    """

    encode: Callable[[Tensor], Tensor]
    fingerprint: str
    vocab_size: int


class EmojiDataModule(LightningDataModule):
    """Train and validation batches of the emoji data.

    With an encoder, every image is tokenised once into a store under `cache_dir` (shared by runs, safe when several
    start at once) and batches are {"tokens": (B, L) int64, "label": (B,) int64}; with `config.condition` caption also
    "caption", a list of strings, and, given a text encoder, "text", `TextFeatures`, out of a text store in `cache_dir`.
    Without an encoder, {"image": (B, 3, H, W) float32 in [-1, 1], "label": (B,) int64}.

    The order of the training batches depends on (seed, epoch) alone and resumes exactly. Use with
    `Trainer(use_distributed_sampler=False)`, and do not read `trainer.estimated_stepping_batches`: it makes Lightning
    build the loader early and drop the resumed position.

    Args:
        config: what to load.
        batch_size: samples per process and batch.
        seed: of the order of samples and the choice of mirrored ones.
        num_workers: loader processes; batches are the same for any number.
        encoder: the tokenizer, or None for pixels.
        cache_dir: where token and text stores are kept.
        text_encoder: what makes features of captions.
    """

    def __init__(
        self,
        config: EmojiConfig,
        batch_size: int,
        seed: int = 0,
        num_workers: int = 0,
        encoder: ImageEncoder | None = None,
        cache_dir: Path | str = "outputs/cache",
        text_encoder: TextEncoder | None = None,
    ):
        super().__init__()
        self.config = config
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.encoder = encoder
        self.cache_dir = Path(cache_dir)
        self.text_encoder = text_encoder if config.condition == "caption" else None
        self._datasets: dict[str, BatchedDataset] = {}

    def prepare_data(self) -> None:
        """Encode what is not in the cache yet (on one process per node; the others wait)."""
        if self.encoder:
            for split in ("train", "val"):
                self._text(self.store(split))

    def setup(self, stage: str | None = None) -> None:
        """Open the data of both splits."""
        for split in ("train", "val"):
            self._datasets[split] = self._token_dataset(split) if self.encoder else self._image_dataset(split)

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled, endless over epochs, resumable."""
        dataset = self._datasets["train"]
        count = len(dataset) // dataset.views
        sampler = EpochSampler(count, self.batch_size, self.seed, dataset.views, *self._process())
        return ResumableLoader(dataset, sampler, self.num_workers, torch.cuda.is_available())

    def val_dataloader(self) -> DataLoader:
        """Every validation image once, unmirrored, always in the same order."""
        dataset = self._datasets["val"]
        sampler = SequentialSampler(len(dataset), self.batch_size, dataset.views, *self._process())
        return sequential_loader(dataset, sampler, self.num_workers, torch.cuda.is_available())

    @staticmethod
    def reference(config: EmojiConfig) -> ReferenceSet:
        """The real images that samples of a run on this data are measured against."""
        return emoji_reference(config)

    @staticmethod
    def prompts(config: EmojiConfig, split: Split) -> tuple[list[str], np.ndarray]:
        """Captions of a split, each concept once, and their labels (N,): what samples can be asked for with.

        Of the train split only those that the generator has seen.
        """
        data = load_emoji(config.styles, split)
        index = choose_subset(len(data), config.subset if split == "train" else 0)
        captions = dict(zip([data.captions[i] for i in index], data.labels[index], strict=True))
        return list(captions), np.array(list(captions.values()))

    def store(self, split: Split) -> TokenStore:
        """The token store of a split, made if it does not exist.

        Raises:
            ValueError: it exists but is damaged, or the encoder's output does not fit.
        """
        assert self.encoder is not None
        flip = self.config.flip and split == "train"
        source = {
            "dataset": "emoji",
            "fingerprint": self._fingerprint(),
            "styles": list(self.config.styles),
            "split": split,
            "views": ["plain", "mirrored"] if flip else ["plain"],
        }
        key = json.dumps([source, self.encoder.fingerprint, self.encoder.vocab_size], sort_keys=True)
        folder = self.cache_dir / "tokens" / f"emoji-{split}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        if not folder.exists():
            with work_lock(folder.with_name(f".{folder.name}.lock")):
                if not folder.exists():
                    self._tokenize(self.encoder, folder, split, flip, source)
        return TokenStore(folder, verify=True)

    def _tokenize(self, encoder: ImageEncoder, folder: Path, split: Split, flip: bool, source: dict[str, Any]) -> None:
        data = self._images(split)
        log.info("Tokenizing the %d images of emoji/%s into %s", len(data), split, folder)
        views = [data.images, data.images[:, :, ::-1]] if flip else [data.images]
        tokens = np.stack([_encode(encoder, images) for images in views], axis=1)
        write_store(
            folder,
            tokens,
            data.labels,
            data.captions,
            vocab_size=encoder.vocab_size,
            tokenizer=encoder.fingerprint,
            source=source,
        )

    def _token_dataset(self, split: Split) -> TokenDataset:
        store = self.store(split)
        index = choose_subset(len(store), self.config.subset) if split == "train" else None
        return TokenDataset(store, index, self.config.condition == "caption", self._text(store))

    def _text(self, store: TokenStore) -> TextStore | None:
        return self.text_encoder and cached_text_store(store.captions(), self.text_encoder, self.cache_dir)

    def _image_dataset(self, split: Split) -> ImageDataset:
        data = self._images(split)
        index = choose_subset(len(data), self.config.subset) if split == "train" else np.arange(len(data))
        return ImageDataset(data.images[index], data.labels[index], 2 if self.config.flip and split == "train" else 1)

    def _images(self, split: Split) -> EmojiImages:
        return load_emoji(self.config.styles, split)

    def _fingerprint(self) -> str:
        if not self.config.fingerprint:
            self.config.resolve()
        return self.config.fingerprint

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


@torch.inference_mode()
def _encode(encoder: ImageEncoder, images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 -> (N, L) int64."""
    parts = []
    for start in range(0, len(images), ENCODE_BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(images[start : start + ENCODE_BATCH]))
        tokens = encoder.encode(batch)
        if tokens.ndim != 2 or len(tokens) != len(batch):
            raise ValueError(f"The tokenizer made {tuple(tokens.shape)} of {len(batch)} images; (B, L) was expected.")
        parts.append(tokens.cpu().numpy())
    return np.concatenate(parts)
