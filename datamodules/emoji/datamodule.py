"""The emoji data as batches of tokens, or of pixels for training a tokenizer.

Shapes: B batch, L tokens, N images, V views (2 with flip, else 1), H = W = 32.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.base import StreamDataModule
from datamodules.datasets import ImageDataset, TokenDataset
from datamodules.emoji.config import EmojiConfig
from datamodules.emoji.data import EmojiImages, Split, load_emoji
from datamodules.emoji.reference import emoji_reference
from datamodules.encoder import ImageEncoder
from datamodules.files import work_lock
from datamodules.quality import SCORES, best
from datamodules.store import TokenStore, write_store
from datamodules.subset import choose_subset
from datamodules.text_store import TextStore, cached_text_store
from lightning_modules.metrics.reference import ReferenceSet

log = logging.getLogger(__name__)
ENCODE_BATCH = 128


class EmojiDataModule(StreamDataModule):
    """Train and validation batches of the emoji data.

    With an encoder, every image is tokenised once into a store under `cache_dir` (shared by runs, safe when several
    start at once) and batches are {"tokens": (B, L) int64, "label": (B,) int64}, or for a tokenizer without vocabulary
    {"latents": (B, C, h, w) float32, "label"}; with `config.condition` caption also
    "caption", a list of strings, and, given a text encoder, "text", `TextFeatures`, out of a text store in `cache_dir`.
    Without an encoder, {"image": (B, 3, H, W) float32 in [-1, 1], "label": (B,) int64}.

    Arguments are those of `StreamDataModule`. `cache_dir` holds the token and text stores.
    """

    config: EmojiConfig

    def prepare_data(self) -> None:
        """Encode what is not in the cache yet (on one process per node; the others wait)."""
        if self.encoder:
            for split in ("train", "val"):
                self._text(self.store(split))

    def setup(self, stage: str | None = None) -> None:
        """Open the data of both splits."""
        for split in ("train", "val"):
            self._datasets[split] = self._token_dataset(split) if self.encoder else self._image_dataset(split)

    @staticmethod
    def reference(config: EmojiConfig) -> ReferenceSet:
        """The real images that samples of a run on this data are measured against."""
        return emoji_reference(config)

    @staticmethod
    def prompts(config: EmojiConfig, split: Split) -> tuple[list[str], np.ndarray]:
        """Captions of a split, each concept once, and their labels (N,): what samples can be asked for with.

        Of the train split only those of `config.subset`. `config.best_share` does not count: quality tuning goes on
        from a run that has seen the others.
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
        return TokenDataset(store, self._index(split), self.config.condition == "caption", self._text(store))

    def _text(self, store: TokenStore) -> TextStore | None:
        if self.text_encoder is None:
            return None
        return cached_text_store(store.captions(), self.text_encoder, self.cache_dir)

    def _image_dataset(self, split: Split) -> ImageDataset:
        data, index = self._images(split), self._index(split)
        return ImageDataset(data.images[index], data.labels[index], 2 if self.config.flip and split == "train" else 1)

    def _index(self, split: Split) -> np.ndarray:
        """The images of a split that take part: the best-scoring share, and of the train split the subset of these."""
        images = self._images(split).images
        index = np.arange(len(images))
        if self.config.best_share < 1:
            index = best(SCORES[self.config.score](images), self.config.best_share)
        return index[choose_subset(len(index), self.config.subset)] if split == "train" else index

    def _images(self, split: Split) -> EmojiImages:
        return load_emoji(self.config.styles, split)

    def _fingerprint(self) -> str:
        if not self.config.fingerprint:
            self.config.resolve()
        return self.config.fingerprint


@torch.inference_mode()
def _encode(encoder: ImageEncoder, images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 -> tokens (N, L) int64, or latents (N, C, h, w)."""
    parts = []
    for start in range(0, len(images), ENCODE_BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(images[start : start + ENCODE_BATCH]))
        tokens = encoder.encode(batch)
        if tokens.ndim != (2 if encoder.vocab_size else 4) or len(tokens) != len(batch):
            expected = "(B, L)" if encoder.vocab_size else "(B, C, h, w)"
            raise ValueError(
                f"The tokenizer made {tuple(tokens.shape)} of {len(batch)} images; {expected} was expected."
            )
        parts.append(tokens.cpu().numpy())
    return np.concatenate(parts)
