"""The frame of every measurement, whatever samples are held against: the numbers, and the protocol they came by.

Shapes: N samples, M reference images, H x W pixels, R replicates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lightning_modules.metrics.bootstrap import intervals, mean_deviations, resamples
from lightning_modules.metrics.config import MetricsConfig
from lightning_modules.metrics.distribution import NEIGHBOURS
from lightning_modules.metrics.features import Extractor, dinov2_extractor, efficientnet_extractor, inception_extractor
from lightning_modules.metrics.measures import CLASS_ACCURACY, Expected, measure, splits, subset_size
from lightning_modules.metrics.pixels import pixel_measures
from lightning_modules.metrics.probe import PENALTY
from lightning_modules.metrics.reference import ReferenceSet
from lightning_modules.metrics.statistics import ReferenceStatistics

DIGITS = 5
"""Significant digits that replicates are kept with."""


class Measurement(NamedTuple):
    """What `evaluate_images` and `evaluate_against` find."""

    metrics: dict[str, float]
    """Name -> value, names as in `lightning_modules.metrics.config.METRICS`."""
    protocol: dict[str, Any]
    """JSON-ready: N, reference, extractors and their checksums, settings, and under "floor" the value of every measure
    for real images instead of samples; empty if there are too few."""
    replicates: dict[str, list[float]]
    """Metric -> deviations of its bootstrap replicates; the k-th is of the same resample in every metric of all images,
    and in every evaluation of equal N and seed. Caption scores resample the images that they can judge."""


def check_samples(images: np.ndarray, labels: np.ndarray | None) -> None:
    """Raises ValueError for samples that are not uint8, or not as many as their labels, where these are known."""
    if images.dtype != np.uint8:
        raise ValueError(f"Samples are {images.dtype}; uint8 images (N, H, W, 3) were expected.")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"There are {len(images)} samples but {len(labels)} labels.")


def measure_samples(
    images: np.ndarray,
    reference: ReferenceSet | ReferenceStatistics,
    config: MetricsConfig,
    extractors: Mapping[str, Extractor],
    against: Callable[[Extractor], tuple[Expected, dict[str, float]]],
) -> Measurement:
    """Measure samples by the features of every extractor, and by their pixels where the reference has images.

    Args:
        images: (N, H, W, 3) uint8.
        extractors: as `make_extractors` gives them.
        against: extractor -> what the features of samples are held against, and the floor of these measures.
    """
    weights = resamples(len(images), config.bootstrap, config.seed) if config.bootstrap else None
    metrics: dict[str, float] = {}
    floor: dict[str, float] = {}
    replicates: dict[str, np.ndarray] = {}
    for extractor in extractors.values():
        expected, its_floor = against(extractor)
        found = measure(features(extractor, images, config), expected, config, weights)
        metrics, floor, replicates = metrics | found.metrics, floor | its_floor, replicates | found.replicates
    if reference.images is not None:
        metrics |= pixel_measures(images, reference.images)
    metrics |= intervals(metrics, replicates, len(images))
    protocol = _protocol(len(images), reference, extractors, config)
    if CLASS_ACCURACY in metrics and reference.images is not None:
        protocol["probe"] = {"images": len(reference.images), "penalty": PENALTY}
    protocol["floor"] = {name: value for name, value in floor.items() if not name.endswith("_std")}
    return Measurement(metrics, protocol, _shortened(replicates))


def with_mean(measured: Measurement, name: str, values: np.ndarray, config: MetricsConfig) -> Measurement:
    """A measurement with one more metric beside it: the mean of a number of every image.

    Args:
        values: (N,), or fewer where not every image has one.
    """
    found, drawn = {name: float(values.mean())}, {}
    if config.bootstrap:
        drawn[name] = mean_deviations(values, resamples(len(values), config.bootstrap, config.seed))
    metrics = measured.metrics | found | intervals(found, drawn, len(values))
    return Measurement(metrics, measured.protocol, measured.replicates | _shortened(drawn))


def features(extractor: Extractor, images: np.ndarray, config: MetricsConfig) -> dict[str, Tensor]:
    """(N, H, W, 3) uint8 -> {layer: (N, D)}."""
    return extractor.cached(
        images, config.batch_size, config.device, Path(config.cache_dir) if config.cache_dir else None
    )


def make_extractors(config: MetricsConfig) -> dict[str, Extractor]:
    """What takes features, by its section of the protocol.

    Raises:
        ValueError: a file that holds no such weights.
        FileNotFoundError: no such file of weights.
    """
    result = {"": efficientnet_extractor()}
    if config.inception_weights:
        result["inception"] = inception_extractor(Path(config.inception_weights))
    if config.dinov2_weights:
        result["dinov2"] = dinov2_extractor(Path(config.dinov2_weights))
    return result


def _shortened(replicates: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: [float(f"{value:.{DIGITS}g}") for value in values] for name, values in replicates.items()}


def _protocol(
    count: int,
    reference: ReferenceSet | ReferenceStatistics,
    extractors: Mapping[str, Extractor],
    config: MetricsConfig,
) -> dict[str, Any]:
    protocol: dict[str, Any] = {
        "num_samples": count,
        "reference": reference.description,
        "reference_fingerprint": reference.fingerprint,
        **_describe(extractors[""]),
    }
    if reference.images is not None:
        size = subset_size(count, len(reference.images))
        protocol["kid"] = {"subsets": config.kid_subsets, "subset_size": size}
        protocol["precision_recall"] = {"neighbours": NEIGHBOURS}
    protocol["seed"] = config.seed
    if config.bootstrap:
        protocol["bootstrap"] = {"replicates": config.bootstrap}
    protocol |= {section: _describe(extractor) for section, extractor in extractors.items() if section}
    if "inception" in protocol:
        protocol["inception"]["is_splits"] = splits(count)
    return protocol


def _describe(extractor: Extractor) -> dict[str, Any]:
    return {"extractor": extractor.name, "extractor_sha256": extractor.sha256, "resize": extractor.resize}
