"""Is a store what it says? Checksums, ranges, captions, and a look at decoded samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.files import atomic_write
from datamodules.store import TokenStore

SHOWN, MOST_VIEWS, GAP = 16, 10, 2
COLUMNS, TILE = 4, 96
"""Of a store of one view: images in a row; and the least side of a decoded image, enlarged by whole factors."""
CHUNK = 32 << 20
"""Codes that are looked at together; as indices they take four times the memory."""


@dataclass(frozen=True)
class Verified:
    """What was found in order.

    Attributes:
        images, views, captions: counts.
        codes_in_use: share of the vocabulary that occurs; None for latents.
        shown: key, label and first caption ("" = none) of the decoded samples, row by row.
    """

    images: int
    views: int
    captions: int
    codes_in_use: float | None
    shown: list[tuple[str, int, str]]


def verify_store(
    folder: Path, decode: Callable[[Tensor], Tensor] | None = None, grid: Path | None = None, seed: int = 0
) -> Verified:
    """Read a whole store and check it.

    Args:
        decode: (B, L) tokens or (B, C, h, w) latents -> (B, H, W, 3) uint8, to draw a grid.
        grid: the PNG to write: one row per random image, one column per view; of a single view four images a row.

    Raises:
        FileNotFoundError, ValueError: no store, or what is wrong with it.
    """
    store = TokenStore(folder, verify=True)
    used = _check_codes(store)
    classes = len(store.meta.source.get("classes", ()))
    labels = np.asarray(store.labels)
    if labels.min() < 0 or (classes and labels.max() >= classes):
        raise ValueError(f"{folder} has labels from {labels.min()} to {labels.max()}, but {classes} classes.")
    captions = 0
    for i in range(len(store)):
        for which in range(store.caption_count(i)):
            store.caption(i, which)  # decodes, so invalid text would show
            captions += 1
    chosen = np.sort(np.random.default_rng(seed).permutation(len(store))[:SHOWN])
    if decode is not None and grid is not None:
        _draw(store, chosen, decode, grid)
    shown = [(store.key(i), int(labels[i]), store.caption(i)) for i in chosen.tolist()]
    return Verified(len(store), store.meta.views, captions, used, shown)


def _check_codes(store: TokenStore) -> float | None:
    seen = np.zeros(max(store.meta.vocab_size, 1), bool)
    rows = max(1, CHUNK // math.prod(store.codes.shape[1:]))
    for start in range(0, len(store), rows):
        codes = np.asarray(store.codes[start : start + rows])
        if store.meta.latent_shape:
            if not np.isfinite(codes).all():
                raise ValueError(f"{store.folder} has latents that are not finite, from image {start} on.")
        elif codes.max(initial=0) >= store.meta.vocab_size:
            raise ValueError(f"{store.folder} has tokens beyond its vocabulary, from image {start} on.")
        else:
            seen[codes.ravel()] = True
    return None if store.meta.latent_shape else float(seen.mean())


def _draw(store: TokenStore, chosen: np.ndarray, decode: Callable[[Tensor], Tensor], path: Path) -> None:
    codes = np.asarray(store.codes[chosen, :MOST_VIEWS])
    views = codes.shape[1]
    columns = views if views > 1 else COLUMNS
    tensor = torch.from_numpy(codes.astype(np.float32 if store.meta.latent_shape else np.int64)).flatten(0, 1)
    images = torch.cat([decode(part) for part in tensor.split(SHOWN)]).cpu().numpy()
    scale = -(-TILE // images.shape[2])
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    rows, (height, width) = -(-len(images) // columns), images.shape[1:3]
    picture = np.full((rows * (height + GAP), columns * (width + GAP), 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        picture[top : top + height, left : left + width] = image
    atomic_write(path, lambda stream: Image.fromarray(picture).save(stream, "PNG"))
