"""Data sets that return whole batches: tokens out of a store, pixels out of an array.

Shapes: B batch, L tokens, V views, H, W pixels. Rows are index * V + view, see `datamodules.sampler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datamodules.store import TokenStore
from datamodules.text_store import TextStore
from lightning_modules.images import from_uint8

CAPTION_DRAWS = 420
"""Values of a random number that picks one of an image's captions: divisible by 1 to 7, so that each is as likely."""


class TokenDataset:
    """Batches {"tokens": (B, L) int64, "label": (B,) int64} from a token store, "latents" (B, C, h, w) float32 from one
    of latents.

    With captions there is also "caption", a list of B strings, and with features of them "text", `TextFeatures`. Where
    images have several captions, the sampler's draw of a variant decides on view and caption together.

    Args:
        store: the store, with all of its V views.
        index: (N',) the samples of the store that take part, or None for all.
        captions: whether batches carry captions.
        text: features of all captions of the store, in its order.
        views: which of the stored views take part, or None for all.
        caption_weights: how often each of an image's captions is drawn, first to last; () = all alike.

    Raises:
        ValueError: there are not as many weights as an image has captions, at most.
    """

    in_processes = False

    def __init__(
        self,
        store: TokenStore,
        index: np.ndarray | None = None,
        captions: bool = False,
        text: TextStore | None = None,
        views: Sequence[int] | None = None,
        caption_weights: Sequence[float] = (),
    ):
        self.store = store
        self.index = np.arange(len(store)) if index is None else index
        self.stored_views = np.arange(store.meta.views) if views is None else np.asarray(views)
        self.captions = captions
        self.text = text
        self.caption_draws = CAPTION_DRAWS if captions and store.several_captions else 1
        self.views = len(self.stored_views) * self.caption_draws
        if caption_weights and len(caption_weights) != store.most_captions:
            raise ValueError(
                f"data.caption_weights={list(caption_weights)} must be as many numbers as an image of "
                f"{store.folder} has captions, {store.most_captions}; or leave it out."
            )
        shares = [np.cumsum(caption_weights[: n + 1]) for n in range(len(caption_weights))]
        self._bounds = [np.round(share / share[-1] * CAPTION_DRAWS) for share in shares]
        """[n - 1] -> (n,) the draws at which the next of n captions begins, where they are not all alike."""

    def __len__(self) -> int:
        return len(self.index) * self.views

    def __getitem__(self, rows: np.ndarray) -> dict[str, Any]:
        samples, (views, draws) = self.index[rows // self.views], np.divmod(rows % self.views, self.caption_draws)
        codes = self.store.codes[samples, self.stored_views[views]]
        batch: dict[str, Any] = {
            **(
                {"latents": torch.from_numpy(codes.astype(np.float32))}
                if self.store.meta.latent_shape
                else {"tokens": torch.from_numpy(codes.astype(np.int64))}
            ),
            "label": torch.from_numpy(self.store.labels[samples].astype(np.int64)),
        }
        if self.captions:
            chosen = [
                (int(sample), self._which(int(draw), self.store.caption_count(int(sample))))
                for sample, draw in zip(samples, draws, strict=True)
            ]
            batch["caption"] = [self.store.caption(sample, which) for sample, which in chosen]
            if self.text is not None:
                batch["text"] = self.text.batch([self.store.caption_row(sample, which) for sample, which in chosen])
        return batch

    def _which(self, draw: int, count: int) -> int:
        """The one of an image's captions that a draw out of `caption_draws` picks; 0 of none."""
        if self._bounds and count:
            return int(np.searchsorted(self._bounds[count - 1], draw, side="right"))
        return draw * count // self.caption_draws


class ImageDataset:
    """Batches {"image": (B, 3, H, W) float32 in [-1, 1], "label": (B,) int64}, for training a tokenizer.

    Args:
        images: (N, H, W, 3) uint8.
        labels: (N,) int64.
        views: 1, or 2 to offer the mirrored images as well.
    """

    in_processes = False

    def __init__(self, images: np.ndarray, labels: np.ndarray, views: int = 1):
        self.images, self.labels, self.views = images, labels, views

    def __len__(self) -> int:
        return len(self.images) * self.views

    def __getitem__(self, rows: np.ndarray) -> dict[str, Any]:
        samples, mirrored = rows // self.views, rows % self.views == 1
        images = self.images[samples]
        images[mirrored] = images[mirrored, :, ::-1]
        return {
            "image": from_uint8(torch.from_numpy(images)).contiguous(),
            "label": torch.from_numpy(self.labels[samples]),
        }
