"""Sampling images from a trained generator: balanced labels, and image i the same whatever the batch size.

Shapes: B batch, L tokens, H x W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.config import RunConfig
from lightning_modules.conditions import Condition
from lightning_modules.samplers.config import SAMPLERS
from lightning_modules.samplers.noise import Noise

GRID_PER_CLASS = 4


@dataclass
class Samples:
    """N sampled images."""

    images: np.ndarray  # (N, H, W, 3) uint8
    labels: np.ndarray  # (N,) int64
    seconds: float
    """Wall time of sampling and decoding, without building the model."""


def balanced_labels(count: int, classes: int) -> np.ndarray:
    """0, 1, .., classes - 1, 0, 1, ..: every class equally often, up to one."""
    return np.arange(count) % classes


@torch.inference_mode()
def sample_images(
    config: RunConfig,
    generator: nn.Module,
    tokenizer: Any,
    labels: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
    known: Tensor | None = None,
) -> Samples:
    """Sample one image per label.

    Args:
        generator, tokenizer: on `device`; the generator is put in eval mode and back.
        seed: image i depends on (seed, i) and its label alone.
        progress: called with the number of images done, after every batch.
        known: (L,) tokens that every image keeps, `mask_token` where one is to be drawn; None = all are.
    """
    sampler = SAMPLERS.build(config.sampler)
    was_training = generator.training
    generator.eval()
    parts, seconds = [], 0.0
    bf16 = config.trainer.precision != "fp32"
    try:
        for start in range(0, len(labels), batch_size):
            began = time.perf_counter()
            indices = torch.arange(start, min(start + batch_size, len(labels)), device=device)
            condition = torch.as_tensor(np.asarray(labels)[indices.cpu().numpy()], device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                parts.append(_sample_batch(sampler, generator, tokenizer, condition, Noise(seed, indices), known))
            seconds += time.perf_counter() - began
            progress(start + len(indices))
    finally:
        generator.train(was_training)
    return Samples(np.concatenate(parts), np.asarray(labels, dtype=np.int64), seconds)


def _sample_batch(
    sampler: Any, generator: Any, tokenizer: Any, condition: Condition, noise: Noise, known: Tensor | None
) -> np.ndarray:
    """Condition of B samples -> images (B, H, W, 3) uint8."""
    if known is None:
        codes = sampler(generator, condition, noise)
    else:
        codes = sampler(generator, condition, noise, known.expand(len(noise.keys), -1))
    return tokenizer.decode_uint8(codes).cpu().numpy()


def grid_labels(classes: int, per_class: int = GRID_PER_CLASS) -> list[int]:
    """Labels of the sample grid: one column per class, the same in every run."""
    return [label for _ in range(per_class) for label in range(classes)]


def image_grid(images: np.ndarray, columns: int, scale: int = 1, gap: int = 2) -> np.ndarray:
    """(N, H, W, 3) uint8 -> one picture, row by row, on white; every pixel repeated `scale` times."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    picture = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        picture[top : top + height, left : left + width] = image
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)
