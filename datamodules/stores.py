"""ImageNet, CC3M, COCO and folders of images as batches out of memory-mapped stores.

Shapes: B batch, L tokens, (C, h, w) latents.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import Split, StreamDataModule
from datamodules.datasets import TokenDataset
from datamodules.quality import best
from datamodules.readahead import read_ahead
from datamodules.store import TokenStore
from datamodules.store_config import StoreConfig
from datamodules.store_folder import META
from datamodules.subset import choose_subset
from datamodules.text_store import TextStore, cached_text_store, captions_sha256, text_store_folder
from lightning_modules.text_encoders.ragged import TextEncoder


class StoreDataModule(StreamDataModule):
    """Batches of the stores `root`/train and `root`/val.

    A batch has "tokens" (B, L) int64 or "latents" (B, C, h, w) float32, and "label" (B,) int64; with captions also
    "caption", a list of B strings, and, given a text encoder, "text", `TextFeatures`, out of a text store that is made
    once, beside the stores or, where that folder cannot be written, in `cache_dir`. A store may hold several views of
    every image (flips, ten crops) and several captions; each epoch draws one of each per image.

    Arguments are those of `StreamDataModule`; the encoder only says which tokenizer the stores must be of.

    Raises:
        ValueError: no root named; stores that are damaged, of another tokenizer, or without what `config` asks for.
        FileNotFoundError: no stores under the root.
    """

    config: StoreConfig

    def __init__(self, config: StoreConfig, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        if not config.root:
            raise ValueError(
                f"The data set {config.name} needs data.root=FOLDER with the token stores train/ and val/; "
                f"`ablate tokenize {config.name} --source IMAGES --out FOLDER` makes them."
            )
        if self.encoder is None:
            raise ValueError(f"The data set {config.name} holds tokens, so it cannot train a tokenizer.")
        self.stores = {"train": self._open("train"), "val": self._open("val")}
        self._texts: dict[str, TextStore] = {}

    def prepare_data(self) -> None:
        """Encode the captions that are not encoded yet (on one process per node; the others wait)."""
        if self.text_encoder:
            for store in self.stores.values():
                self._text(store)

    def setup(self, stage: str | None = None) -> None:
        """Open the data of both splits."""
        for split, store in self.stores.items():
            train = split == "train"
            index = self._index(store, split)
            views = self._views(store) if train else None
            captions = self.config.condition == "caption"
            weights = self.config.caption_weights if train else ()
            self._datasets[split] = TokenDataset(store, index, captions, self._text(store), views, weights)
        train_store = self.stores["train"]
        read_ahead(train_store.folder / train_store.meta.codes_file)

    @staticmethod
    def reference(config: StoreConfig) -> Any:
        """Raises ValueError: real images do not travel with tokens."""
        try:
            size = TokenStore(Path(config.root) / "train").meta.source["image_size"]
        except FileNotFoundError:  # no tokens to train on, as in an evaluation on prompts alone
            size = "PIXELS"
        raise ValueError(
            f"The tokens of {config.name} carry no real images to measure against; name reference statistics with "
            f"evaluation.reference=FILE (evaluation.dataset_reference where it is evaluation.dataset), from "
            f"`ablate reference {config.name} --source IMAGES --split train --size {size} --out FILE`, or as published "
            f"for ADM (VIRTUAL_imagenet256_labeled.npz)."
        )

    @staticmethod
    def prompts(config: StoreConfig, split: Split) -> tuple[list[str], np.ndarray]:
        """One caption of every image of a split, chosen once and for all, and the labels (N,).

        Of the train split only those of `config.subset`. `config.best_share` does not count: quality tuning goes on
        from a run that has seen the others. For COCO's 30,000-caption protocol take the val split of 2014 with
        evaluation.num_samples=30000: as many different images, one caption each, in a fixed random order.
        """
        store = TokenStore(Path(config.root) / split)
        index = choose_subset(len(store), config.subset if split == "train" else 0)
        draws = np.random.default_rng(0).random(len(store))[index]
        captions = [
            store.caption(int(i), int(draw * store.caption_count(int(i)))) for i, draw in zip(index, draws, strict=True)
        ]
        return captions, store.labels[index].astype(np.int64)

    def _open(self, split: Split) -> TokenStore:
        assert self.encoder is not None
        folder = Path(self.config.root) / split
        if not (folder / META).is_file():
            raise FileNotFoundError(self.config.missing(split))
        store = TokenStore(folder)
        if store.meta.tokenizer != self.encoder.fingerprint:
            raise ValueError(
                f"{store.folder} was made with the tokenizer {store.meta.tokenizer[:12] or 'unknown'}, the run has "
                f"{self.encoder.fingerprint[:12]}; name that file with tokenizer.weights, or tokenize again."
            )
        if (classes := self.config.num_classes) and (largest := int(store.labels.max())) >= classes:
            raise ValueError(f"{store.folder} has the label {largest}, but {self.config.name} has {classes} classes.")
        if self.config.condition == "caption" and not store.all_captioned:
            raise ValueError(f"{store.folder} has images without captions, so data.condition=caption is not possible.")
        return store

    def _index(self, store: TokenStore, split: str) -> np.ndarray:
        """The images of a split that take part: the best-scoring share, and of the train split the subset of these."""
        index = np.arange(len(store))
        if self.config.best_share < 1:
            scores = np.load(store.folder / "scores.npy")
            if scores.shape != (len(store),):
                raise ValueError(f"{store.folder / 'scores.npy'} has the shape {scores.shape}, not ({len(store)},).")
            if scores.dtype.kind not in "biuf" or not np.isfinite(scores).all():
                raise ValueError(f"{store.folder / 'scores.npy'} has scores that are no finite numbers; score again.")
            index = best(scores, self.config.best_share)
        return index[choose_subset(len(index), self.config.subset)] if split == "train" else index

    def _views(self, store: TokenStore) -> list[int] | None:
        """Positions of the views that the configuration names."""
        names = store.meta.source.get("views", [])
        for view in self.config.views:
            if view not in names:
                known = ", ".join(map(repr, names)) or "none with a name"
                raise ValueError(f"data.views: {store.folder} has no view '{view}'; it has {known}.")
        return [names.index(view) for view in self.config.views] or None

    def _text(self, store: TokenStore) -> TextStore | None:
        """Features of all captions of a store."""
        if self.text_encoder is None:
            return None
        key = str(store.folder)
        if key not in self._texts:
            self._texts[key] = text_features(store, self.text_encoder, self.cache_dir)
        return self._texts[key]


def text_features(store: TokenStore, encoder: TextEncoder, cache_dir: Path) -> TextStore:
    """The text store of a token store's captions: beside it, else in `cache_dir`; made if it is in neither place."""
    captions, beside = store.captions(), store.folder.parent
    digest = captions_sha256(captions)
    there = text_store_folder(encoder, digest, beside).exists()
    return cached_text_store(captions, encoder, beside if there or os.access(beside, os.W_OK) else cache_dir, digest)
