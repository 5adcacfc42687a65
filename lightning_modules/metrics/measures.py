"""What is measured on the features of each extractor, and by how much it would vary with other samples.

Shapes: N samples, M reference images, D features, R replicates.
"""

from __future__ import annotations

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

IS_SPLITS = 10
KID_SUBSET = 1000


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


def distances(found: dict[str, Tensor], expected: dict[str, Tensor], config: MetricsConfig) -> dict[str, float]:
    """All measures of one extractor: {layer: (N, D)} against {layer: (M, D)}."""
    result: dict[str, float] = {}
    for layer, left in found.items():
        if layer == inception.LOGITS:
            score = inception_score(left, splits(len(left)), config.seed)
            result |= {"is": score.mean, "is_std": score.std}
            continue
        names, right = LAYERS[layer], expected[layer]
        result[names.frechet] = frechet_distance(left, right)
        if names.kernel:
            size = subset_size(len(left), len(right))
            kernel = kernel_distance(left, right, config.kid_subsets, size, config.seed)
            result |= {names.kernel: kernel.mean, f"{names.kernel}_std": kernel.std}
        if names.precision:
            result[names.precision], result[names.recall] = precision_recall(left, right)
    return result


def deviations(
    found: dict[str, Tensor], expected: dict[str, Tensor], config: MetricsConfig, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """(R,) deviations over resamples of every measure that has a bootstrap; see `lightning_modules.metrics.bootstrap`.

    Args:
        weights: (R, N).
    """
    result = {}
    for layer, left in found.items():
        if layer == inception.LOGITS:
            if len(left) >= IS_LEAST:
                influence = inception_score_influence(left, splits(len(left)), config.seed)
                result["is"] = expanded_deviations(influence, weights)
        else:
            names, right = LAYERS[layer], expected[layer]
            result[names.frechet] = frechet_deviations(left, right, weights)
            result |= image_deviations(names, left, right, weights)
    return result


def image_deviations(names: Names, left: Tensor, right: Tensor, weights: np.ndarray) -> dict[str, np.ndarray]:
    """(R,) deviations of the measures that take the features (M, D) of single reference images, not their moments."""
    result = {}
    if names.kernel:
        influence = kernel_influence(left.double().numpy(), right.double().numpy())
        result[names.kernel] = expanded_deviations(influence, weights)
    if names.precision and len(left) > NEIGHBOURS + 1:
        result[names.precision] = mean_deviations(inside(left, right), weights)
        result[names.recall] = expanded_deviations(recall_influence(left, right), weights)
    return result


def subset_size(samples: int, references: int) -> int:
    """Half of the smaller set, so that subsets differ, and no more than the usual 1000."""
    return min(KID_SUBSET, samples // 2, references // 2)


def splits(samples: int) -> int:
    """Splits of the Inception score: the usual 10, where there are so many images."""
    return min(IS_SPLITS, samples)
