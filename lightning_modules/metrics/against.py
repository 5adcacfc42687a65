"""Measure a set of samples against reference statistics, where the real images themselves are not at hand.

Shapes: N samples, H x W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lightning_modules.metrics import inception
from lightning_modules.metrics.bootstrap import (
    expanded_deviations,
    frechet_deviations,
    inception_score_influence,
    intervals,
    resamples,
)
from lightning_modules.metrics.config import IS_LEAST, LEAST_IMAGES, METRICS, MetricsConfig
from lightning_modules.metrics.distribution import (
    NEIGHBOURS,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from lightning_modules.metrics.evaluate import DIGITS, Measurement, describe, describe_settings, make_extractors
from lightning_modules.metrics.features import Extractor
from lightning_modules.metrics.measures import LAYERS, image_deviations, splits, subset_size
from lightning_modules.metrics.pixels import pixel_measures
from lightning_modules.metrics.reference_file import check_images
from lightning_modules.metrics.statistics import ReferenceStatistics

log = logging.getLogger(__name__)
LARGEST_SHARE = 0.1
"""Of the images that moments are of, how many may stand in for new real images, to tell the floor."""


def evaluate_against(
    images: np.ndarray,
    reference: ReferenceStatistics,
    config: MetricsConfig,
    extractors: Mapping[str, Extractor] | None = None,
) -> Measurement:
    """Fréchet distances to the moments in the file (to its images, where it has no moments of these features); KID,
    precision, recall and measures of the pixels to its images, if any; Inception score. The floor of a Fréchet distance
    is that of N of the file's own images, where N is a small part of what the moments are of. Memorisation, which needs
    the training images, and class accuracy, which needs classes, are not measured. The protocol says under
    "not_measured" what is missing, and why.

    Args:
        images: (N, H, W, 3) uint8.
        extractors: those of `make_extractors(config)`, where they are made already.

    Raises:
        ValueError: as `check_statistics` does.
        FileNotFoundError: no such file of weights.
    """
    if images.dtype != np.uint8:
        raise ValueError(f"Samples are {images.dtype}; uint8 images (N, H, W, 3) were expected.")
    extractors = extractors or make_extractors(config)
    check_statistics(images.shape, reference, extractors)
    weights = resamples(len(images), config.bootstrap, config.seed) if config.bootstrap else None
    metrics: dict[str, float] = {}
    replicates: dict[str, np.ndarray] = {}
    floor: dict[str, float] = {}
    for extractor in extractors.values():
        found, deviations = _measure(extractor, images, reference, config, weights)
        metrics, replicates = metrics | found, replicates | deviations
        floor |= _floor(extractor, len(images), reference, config)
    if reference.images is not None:
        metrics |= pixel_measures(images, reference.images)
    metrics |= intervals(metrics, replicates, len(images))
    short = {name: [float(f"{value:.{DIGITS}g}") for value in values] for name, values in replicates.items()}
    not_measured = _not_measured(len(images), reference, extractors)
    for name, reason in not_measured.items():
        log.warning("not measured: %s: %s", name, reason)
    protocol = _protocol(len(images), reference, extractors, config)
    return Measurement(metrics, protocol | {"floor": floor, "not_measured": not_measured}, short)


def check_statistics(
    shape: tuple[int, ...], reference: ReferenceStatistics, extractors: Mapping[str, Extractor]
) -> None:
    """Whether samples can be measured against these statistics, which can be asked before there are any samples.

    Args:
        shape: of the samples, (N, H, W, 3).

    Raises:
        ValueError: samples of another size, fewer than 4 of them, or fewer than 4 images kept (but for none), or
            statistics of another extractor.
    """
    if shape[0] < LEAST_IMAGES:
        raise ValueError(f"{shape[0]} samples are too few; {LEAST_IMAGES} is least.")
    kept = None if reference.images is None else len(reference.images)
    check_images(reference.name, shape[1], reference.image_size, kept)
    for extractor in extractors.values():
        for layer in extractor.network.features_list:
            if (expected := reference.extractors.get(layer)) not in (None, extractor.fingerprint):
                raise ValueError(
                    f"The reference {reference.name} was made with other weights, another preprocessing or another "
                    f"order of features of {extractor.name} ({expected[:12]}) than this evaluation uses "
                    f"({extractor.fingerprint[:12]}); make it anew with `ablate reference`."
                )


def _measure(
    extractor: Extractor,
    images: np.ndarray,
    reference: ReferenceStatistics,
    config: MetricsConfig,
    weights: np.ndarray | None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics and replicates by the features of one extractor."""
    cache = Path(config.cache_dir) if config.cache_dir else None
    real = None
    if reference.images is not None:
        real = extractor.cached(reference.images, config.batch_size, config.device, cache)
    metrics: dict[str, float] = {}
    replicates: dict[str, np.ndarray] = {}
    for layer, left in extractor.cached(images, config.batch_size, config.device, cache).items():
        if layer == inception.LOGITS:
            score = inception_score(left, splits(len(left)), config.seed)
            metrics |= {"is": score.mean, "is_std": score.std}
            if weights is not None and len(left) >= IS_LEAST:
                influence = inception_score_influence(left, splits(len(left)), config.seed)
                replicates["is"] = expanded_deviations(influence, weights)
            continue
        names = LAYERS[layer]
        if layer in reference.moments or real is not None:
            right = reference.stand_in(layer) if layer in reference.moments else (real or {})[layer]
            metrics[names.frechet] = frechet_distance(left, right)
            if weights is not None:
                replicates[names.frechet] = frechet_deviations(left, right, weights)
        if real is not None and names.kernel:
            size = subset_size(len(left), len(real[layer]))
            kernel = kernel_distance(left, real[layer], config.kid_subsets, size, config.seed)
            metrics |= {names.kernel: kernel.mean, f"{names.kernel}_std": kernel.std}
        if real is not None and names.precision:
            metrics[names.precision], metrics[names.recall] = precision_recall(left, real[layer])
        if real is not None and weights is not None:
            replicates |= image_deviations(names, left, real[layer], weights)
    return metrics, replicates


def _floor(extractor: Extractor, count: int, reference: ReferenceStatistics, config: MetricsConfig) -> dict[str, float]:
    """Fréchet distances of as many real images as there are samples: of the file's own, at random."""
    if reference.images is None or _no_floor(count, reference):
        return {}
    cache = Path(config.cache_dir) if config.cache_dir else None
    real = extractor.cached(reference.images, config.batch_size, config.device, cache)
    chosen = np.random.default_rng(config.seed).permutation(len(reference.images))[:count]
    layers = [layer for layer in real if layer in reference.moments]
    return {LAYERS[layer].frechet: frechet_distance(real[layer][chosen], reference.stand_in(layer)) for layer in layers}


def _no_floor(count: int, reference: ReferenceStatistics) -> str:
    """Why there is none; empty if there is."""
    kept = 0 if reference.images is None else len(reference.images)
    if not reference.moments or kept < count:
        return f"the file keeps {kept:,} images; {count:,} are needed, and moments of more"
    if reference.count and count > LARGEST_SHARE * reference.count:
        most = f"{LARGEST_SHARE:.0%} of the reference's {reference.count:,} images"
        return f"it may take no more than {most}, and needs {count:,}"
    return ""


def _not_measured(count: int, reference: ReferenceStatistics, extractors: Mapping[str, Extractor]) -> dict[str, str]:
    """What cannot be said with this file -> why."""
    reasons = {
        "memorisation": "needs the training images themselves",
        "class accuracy": "the file names no classes",
        "floor": _no_floor(count, reference),
    }
    if reference.images is None:
        reasons["KID, precision, recall, colour distance"] = "the file keeps no images"
        used = {layer for extractor in extractors.values() for layer in extractor.network.features_list}
        for layer, names in LAYERS.items():
            if layer in used - reference.moments.keys():
                reasons[METRICS[names.frechet].label] = "the file has neither moments of these features nor images"
    return {name: reason for name, reason in reasons.items() if reason}


def _protocol(
    count: int, reference: ReferenceStatistics, extractors: Mapping[str, Extractor], config: MetricsConfig
) -> dict[str, Any]:
    kept = 0 if reference.images is None else len(reference.images)
    of = f" of {reference.count:,} images" if reference.count else ""
    protocol: dict[str, Any] = {
        "num_samples": count,
        "reference": f"{reference.name} (statistics{of}, {kept:,} images kept)",
        "reference_fingerprint": reference.fingerprint,
        **describe(extractors[""]),
        "moments": sorted(LAYERS[layer].frechet for layer in reference.moments),
        "seed": config.seed,
    }
    if kept:
        protocol["kid"] = {"subsets": config.kid_subsets, "subset_size": subset_size(count, kept)}
        protocol["precision_recall"] = {"neighbours": NEIGHBOURS}
    return protocol | describe_settings(extractors, config, count)
