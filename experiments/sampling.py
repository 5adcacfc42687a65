"""Sampling images from a trained generator: image i is the same whatever the batch size.

Shapes: B batch, L tokens, H x W pixels.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.conditions import Conditions
from experiments.process import autocast
from experiments.run_config import RunConfig
from lightning_modules.samplers.config import SAMPLERS
from lightning_modules.samplers.noise import Noise

FEWEST_SPANS = 5
"""Of which the median is one that holds one sampling and one decoding, even if the last batch is small."""


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

    def draw(start: int) -> Tensor:
        stop = min(start + batch_size, span.stop)
        condition = conditions.batch(np.arange(start, stop), device)
        indices = torch.arange(start, stop, device=device)
        kept = () if known is None else (known.expand(len(indices), -1),)
        with autocast(config, device):
            return sampler(generator, condition, Noise(seed, indices), *kept)

    def decode(codes: Tensor) -> Tensor:
        with autocast(config, device):
            return tokenizer.decode_uint8(codes)

    parts, spans, done = [], [], 0
    began = time.perf_counter()
    try:
        for images in decoded(map(draw, range(span.start, span.stop, batch_size)), decode, device):
            parts.append(images)
            spans.append(time.perf_counter() - began)
            done += len(images)
            progress(done)
            began = time.perf_counter()
    finally:
        generator.train(was_training)
    seconds = typical_seconds(spans, [len(images) for images in parts], overlapped=device.type == "cuda")
    return Samples(np.concatenate(parts), conditions, seconds)


def typical_seconds(spans: Sequence[float], sizes: Sequence[int], overlapped: bool) -> float:
    """Of all batches, at the pace of the median one.

    Args:
        spans: seconds from the last batch's images to its own.
        sizes: images of each batch.
        overlapped: a batch is decoded while the next is sampled: the first span holds two samplings and the last none,
            so that few batches have no typical one, and what they took together is told.
    """
    if overlapped and len(spans) < FEWEST_SPANS:
        return sum(spans)
    return statistics.median(span / size for span, size in zip(spans, sizes, strict=True)) * sum(sizes)


def decoded(
    batches: Iterable[Tensor], decode: Callable[[Tensor], Tensor], device: torch.device
) -> Iterator[np.ndarray]:
    """The images of every batch of codes, in order.

    On a GPU a batch is decoded and copied to the host on a stream of its own while the next one is sampled, never more
    than one at a time. On a CPU they follow each other: both keep all cores busy.

    Args:
        batches: codes (B, ..) on `device`, sampled when they are asked for.
        decode: codes -> images (B, H, W, 3) uint8.
    """
    if device.type != "cuda":
        for codes in batches:
            yield decode(codes).cpu().numpy()
        return
    side, pending = _decoding_stream(device), None
    for codes in batches:
        if pending is not None:
            yield _finished(*pending)
        side.wait_stream(torch.cuda.current_stream(device))
        codes.record_stream(side)
        with torch.cuda.stream(side):
            images, event = decode(codes).to("cpu", non_blocking=True), torch.cuda.Event()  # into pinned memory
            event.record(side)
        pending = images, event
    if pending is not None:
        yield _finished(*pending)


@functools.cache
def _decoding_stream(device: torch.device) -> torch.cuda.Stream:
    """One for the whole process: the allocator keeps freed memory for the stream that it was used on."""
    return torch.cuda.Stream(device)


def _finished(images: Tensor, event: torch.cuda.Event) -> np.ndarray:
    """Images that are on their way to the host, as a copy: pinned memory is for one batch, not for all of them."""
    event.synchronize()
    return images.numpy().copy()
