"""What is measured on the features of each extractor, and by how much it would vary with other samples.

Shapes: N samples, M reference images, P points that stand in for others, D features, R replicates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lightning_modules.metrics import dinov2, efficientnet, inception
from lightning_modules.metrics.bootstrap import (
    expanded_deviations,
    frechet_deviations,
    inception_score_influence,
    kernel_influence,
    mean_deviations,
    subset_stretch,
)
from lightning_modules.metrics.config import IS_LEAST, MetricsConfig
from lightning_modules.metrics.distribution import (
    NEIGHBOURS,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from lightning_modules.metrics.manifold import inside, recall_influence
from lightning_modules.metrics.probe import fit_probe

IS_SPLITS = 10
KID_SUBSET = 1000
CLASS_ACCURACY = "class_accuracy_efflite0"


class Names(NamedTuple):
    """What the measures of one layer of features are called; "" = not measured."""

    frechet: str
    kernel: str = ""
    precision: str = ""
    recall: str = ""


LAYERS: dict[str, Names] = {
    efficientnet.LAYER: Names("fd_efflite0", "kid_efflite0", "precision_efflite0", "recall_efflite0"),
    inception.LAYER: Names("fid", "kid", "precision", "recall"),
    inception.SPATIAL: Names("sfid"),
    dinov2.LAYER: Names("fd_dinov2"),
}
"""Layer of features -> its measures. No two extractors name a layer alike."""


class Expected(NamedTuple):
    """What samples are held against, by the features of one extractor: of single images, moments, or both."""

    images: Mapping[str, Tensor]
    """{layer: (M, D)} of single reference images; empty where there are none."""
    stand_ins: Mapping[str, Tensor] = MappingProxyType({})
    """{layer: (P, D)} with the moments of the reference; they come before `images` in Fréchet distances."""
    hits: Callable[[np.ndarray], np.ndarray] | None = None
    """As `class_hits` gives it; None = no class accuracy by this extractor."""


class Found(NamedTuple):
    """What is measured on features."""

    metrics: dict[str, float]
    replicates: dict[str, np.ndarray]
    """(R,) deviations over resamples of every measure that has a bootstrap."""


def measure(
    found: Mapping[str, Tensor], expected: Expected, config: MetricsConfig, weights: np.ndarray | None = None
) -> Found:
    """All measures of one extractor that `expected` allows.

    Args:
        found: {layer: (N, D)}, of samples.
        weights: (R, N) resamples; None = no replicates. See `lightning_modules.metrics.bootstrap`.
    """
    metrics: dict[str, float] = {}
    replicates: dict[str, np.ndarray] = {}
    for layer, left in found.items():
        if layer == inception.LOGITS:
            part = _inception_score(left, config, weights)
        else:
            part = _distances(layer, left, expected, config, weights)
        metrics, replicates = metrics | part.metrics, replicates | part.replicates
    if expected.hits is not None:
        hits = expected.hits(found[efficientnet.LAYER].numpy())
        metrics[CLASS_ACCURACY] = float(hits.mean())
        if weights is not None:
            replicates[CLASS_ACCURACY] = mean_deviations(hits, weights)
    return Found(metrics, replicates)


def class_hits(
    images: Mapping[str, Tensor], classes: np.ndarray | None, labels: np.ndarray | None
) -> Callable[[np.ndarray], np.ndarray] | None:
    """A function (N, D) -> (N,) bool: whether a probe of the reference images takes samples for what they were asked
    for. None where it cannot be told: these are no features that the probe is fitted on, what the samples were asked
    for or the classes of the images are not known, or the images are of one class alone.

    Args:
        images: {layer: (M, D)}, of reference images.
        classes: (M,), theirs.
        labels: (N,), what samples were asked for.
    """
    if classes is None or labels is None or efficientnet.LAYER not in images or len(np.unique(classes)) < 2:
        return None
    return partial(fit_probe(images[efficientnet.LAYER].numpy(), np.asarray(classes)).hits, labels=labels)


def _inception_score(logits: Tensor, config: MetricsConfig, weights: np.ndarray | None) -> Found:
    count = splits(len(logits))
    score, replicates = inception_score(logits, count, config.seed), {}
    if weights is not None and len(logits) >= IS_LEAST:
        replicates["is"] = expanded_deviations(inception_score_influence(logits, count, config.seed), weights)
    return Found({"is": score.mean, "is_std": score.std}, replicates)


def _distances(
    layer: str, left: Tensor, expected: Expected, config: MetricsConfig, weights: np.ndarray | None
) -> Found:
    """By one layer of features, (N, D)."""
    names, right = LAYERS[layer], expected.images.get(layer)
    moments = expected.stand_ins.get(layer, right)
    metrics: dict[str, float] = {}
    replicates: dict[str, np.ndarray] = {}
    if moments is not None:
        metrics[names.frechet] = frechet_distance(left, moments)
        if weights is not None:
            replicates[names.frechet] = frechet_deviations(left, moments, weights)
    if right is not None and names.kernel:
        size = subset_size(len(left), len(right))
        kernel = kernel_distance(left, right, config.kid_subsets, size, config.seed)
        metrics |= {names.kernel: kernel.mean, f"{names.kernel}_std": kernel.std}
        if weights is not None:
            influence = kernel_influence(left.double().numpy(), right.double().numpy())
            influence *= subset_stretch(len(left), config.kid_subsets, size)
            replicates[names.kernel] = expanded_deviations(influence, weights)
    if right is not None and names.precision:
        metrics[names.precision], metrics[names.recall] = precision_recall(left, right)
        if weights is not None and len(left) > NEIGHBOURS + 1:
            replicates[names.precision] = mean_deviations(inside(left, right), weights)
            replicates[names.recall] = expanded_deviations(recall_influence(left, right), weights)
    return Found(metrics, replicates)


def subset_size(samples: int, references: int) -> int:
    """Half of the smaller set, so that subsets differ, and no more than the usual 1000."""
    return min(KID_SUBSET, samples // 2, references // 2)


def splits(samples: int) -> int:
    """Splits of the Inception score: the usual 10, where there are so many images."""
    return min(IS_SPLITS, samples)
