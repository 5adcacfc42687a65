"""Sampling images from a trained generator: image i is the same whatever the batch size.

Shapes: B batch, L tokens, H x W pixels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.conditions import Conditions
from experiments.config import RunConfig
from experiments.process import autocast
from lightning_modules.conditions import Condition
from lightning_modules.samplers.config import SAMPLERS
from lightning_modules.samplers.noise import Noise


@dataclass
class Samples:
    """N sampled images."""

    images: np.ndarray  # (N, H, W, 3) uint8
    conditions: Conditions
    seconds: float
    """Wall time of sampling and decoding all of them at the pace of the median batch, so that neither one that warms up
    nor one in a busy moment of the machine counts for more than itself."""


@torch.inference_mode()
def sample_images(
    config: RunConfig,
    generator: nn.Module,
    tokenizer: Any,
    conditions: Conditions,
    *,
    span: range | None = None,
    seed: int,
    batch_size: int,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
    known: Tensor | None = None,
) -> Samples:
    """Sample one image per condition, or a part of them.

    Args:
        generator, tokenizer: on `device`; the generator is put in eval mode and back.
        span: draw these images only, by their number; None = all.
        seed: image i depends on (seed, i) and its condition alone.
        progress: called with the number of images done, after every batch.
        known: (L,) tokens that every image keeps, `mask_token` where one is to be drawn; None = all are.
    """
    sampler = SAMPLERS.build(config.sampler)
    was_training = generator.training
    generator.eval()
    span = range(len(conditions)) if span is None else span
    parts, paces = [], []  # pace: seconds per image
    try:
        for start in range(span.start, span.stop, batch_size):
            began = time.perf_counter()
            indices = torch.arange(start, min(start + batch_size, span.stop), device=device)
            condition = conditions.batch(indices.cpu().numpy(), device)
            with autocast(config, device):
                parts.append(_sample_batch(sampler, generator, tokenizer, condition, Noise(seed, indices), known))
            paces.append((time.perf_counter() - began) / len(indices))
            progress(start + len(indices) - span.start)
    finally:
        generator.train(was_training)
    return Samples(np.concatenate(parts), conditions, statistics.median(paces) * len(span))


def _sample_batch(
    sampler: Any, generator: Any, tokenizer: Any, condition: Condition, noise: Noise, known: Tensor | None
) -> np.ndarray:
    """Condition of B samples -> images (B, H, W, 3) uint8."""
    if known is None:
        codes = sampler(generator, condition, noise)
    else:
        codes = sampler(generator, condition, noise, known.expand(len(noise.keys), -1))
    return tokenizer.decode_uint8(codes).cpu().numpy()
