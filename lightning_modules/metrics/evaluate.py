"""Measure a set of samples against a reference set: the numbers, and the protocol that they were obtained by.

Shapes: N samples, M reference images, H x W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_modules.metrics import efficientnet
from lightning_modules.metrics.bootstrap import intervals, mean_deviations, resamples
from lightning_modules.metrics.config import LEAST_IMAGES, MetricsConfig
from lightning_modules.metrics.distribution import NEIGHBOURS
from lightning_modules.metrics.features import Extractor, dinov2_extractor, efficientnet_extractor, inception_extractor
from lightning_modules.metrics.measures import deviations, distances, splits, subset_size
from lightning_modules.metrics.memorisation import HELDOUT_SHARE, SIZE, memorisation
from lightning_modules.metrics.pixels import pixel_measures
from lightning_modules.metrics.probe import PENALTY, fit_probe
from lightning_modules.metrics.reference import ReferenceSet

log = logging.getLogger(__name__)
CLASS_ACCURACY = "class_accuracy_efflite0"
DIGITS = 5
"""Significant digits that replicates are kept with."""


class Measurement(NamedTuple):
    """What `evaluate_images` and `evaluate_against` find."""

    metrics: dict[str, float]
    """Name -> value, names as in `lightning_modules.metrics.config.METRICS`."""
    protocol: dict[str, Any]
    """JSON-ready: N, reference set, extractors and their checksums, settings, and under "floor" the value of every
    measure for real images instead of samples (see `ReferenceSet`); empty if there are too few."""
    replicates: dict[str, list[float]]
    """Metric -> deviations of its bootstrap replicates; the k-th is of the same resample in every metric of all images,
    and in every evaluation of equal N and seed. Caption scores resample the images that they can judge."""


def evaluate_images(
    images: np.ndarray,
    labels: np.ndarray,
    reference: ReferenceSet,
    config: MetricsConfig,
    extractors: Mapping[str, Extractor] | None = None,
) -> Measurement:
    """Measure samples. The same samples give the same numbers.

    FD, KID, precision and recall of EfficientNet-Lite0 features, measures of the pixels and, where the reference has
    classes, class accuracy always; FID, sFID, KID, IS, precision and recall of Inception features, and FD of DINOv2
    features, if `config.inception_weights` and `config.dinov2_weights` name files, and never otherwise.

    Args:
        images: (N, H, W, 3) uint8.
        labels: (N,) integers, what each sample was conditioned on.
        extractors: those of `make_extractors(config)`, where they are made already.

    Raises:
        ValueError: images that do not fit the reference, fewer than 4 of them, or a wrong file of weights.
        FileNotFoundError: no such file of weights.
    """
    if images.dtype != np.uint8:
        raise ValueError(f"Samples are {images.dtype}; uint8 images (N, H, W, 3) were expected.")
    if len(labels) != len(images):
        raise ValueError(f"There are {len(images)} samples but {len(labels)} labels.")
    check_reference(images.shape, reference)
    extractors = extractors or make_extractors(config)
    real = reference.draw_real(labels, config.seed)
    if real is None:
        log.warning("Too few real images for a floor at N = %d with these labels.", len(images))

    weights = resamples(len(images), config.bootstrap, config.seed) if config.bootstrap else None
    metrics: dict[str, float] = {}
    floor: dict[str, float] = {}
    replicates: dict[str, np.ndarray] = {}
    for extractor in extractors.values():
        found, its_floor, its_replicates = _measure(extractor, images, labels, real, reference, config, weights)
        metrics, floor, replicates = metrics | found, floor | its_floor, replicates | its_replicates
    metrics |= pixel_measures(images, reference.images)
    if real is not None:
        floor |= pixel_measures(real, reference.images)
    copies = memorisation(images, reference.train, reference.heldout)
    metrics["memorisation_rate"] = copies.rate
    if weights is not None:
        replicates["memorisation_rate"] = mean_deviations(copies.found, weights)
    metrics |= intervals(metrics, replicates, len(images))
    protocol = _protocol(len(images), reference, extractors, config)
    protocol["floor"] = {name: value for name, value in floor.items() if not name.endswith("_std")}
    protocol["memorisation"]["threshold"] = copies.threshold
    short = {name: [float(f"{value:.{DIGITS}g}") for value in values] for name, values in replicates.items()}
    return Measurement(metrics, protocol, short)


def _measure(
    extractor: Extractor,
    images: np.ndarray,
    labels: np.ndarray,
    real: np.ndarray | None,
    reference: ReferenceSet,
    config: MetricsConfig,
    weights: np.ndarray | None,
) -> tuple[dict[str, float], dict[str, float], dict[str, np.ndarray]]:
    """Metrics, floor and replicates by the features of one extractor."""
    cache = Path(config.cache_dir) if config.cache_dir else None
    expected = extractor.cached(reference.images, config.batch_size, config.device, cache)
    found = extractor.cached(images, config.batch_size, config.device, cache)
    again = None if real is None else extractor.cached(real, config.batch_size, config.device, cache)
    metrics = distances(found, expected, config)
    floor = {} if again is None else distances(again, expected, config)
    replicates = {} if weights is None else deviations(found, expected, config, weights)
    if extractor.name == efficientnet.NAME and reference.has_classes:
        layer = efficientnet.LAYER
        probe = fit_probe(expected[layer].numpy(), np.asarray(reference.labels))
        hits = probe.hits(found[layer].numpy(), labels)
        metrics[CLASS_ACCURACY] = float(hits.mean())
        if again is not None:
            floor[CLASS_ACCURACY] = float(probe.hits(again[layer].numpy(), labels).mean())
        if weights is not None:
            replicates[CLASS_ACCURACY] = mean_deviations(hits, weights)
    return metrics, floor, replicates


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


def describe_settings(extractors: Mapping[str, Extractor], config: MetricsConfig, count: int) -> dict[str, Any]:
    """The part of a protocol that does not depend on what samples are measured against."""
    result: dict[str, Any] = {"bootstrap": {"replicates": config.bootstrap}} if config.bootstrap else {}
    result |= {section: describe(extractor) for section, extractor in extractors.items() if section}
    if "inception" in result:
        result["inception"]["is_splits"] = splits(count)
    return result


def _protocol(
    count: int, reference: ReferenceSet, extractors: Mapping[str, Extractor], config: MetricsConfig
) -> dict[str, Any]:
    protocol: dict[str, Any] = {
        "num_samples": count,
        "reference": f"{reference.name} ({len(reference.images)} images)",
        "reference_fingerprint": reference.fingerprint,
        **describe(extractors[""]),
        "kid": {"subsets": config.kid_subsets, "subset_size": subset_size(count, len(reference.images))},
        "precision_recall": {"neighbours": NEIGHBOURS},
        "memorisation": {
            "distance": f"RMS of {SIZE}x{SIZE} pixels, mirrored images included",
            "heldout_share": HELDOUT_SHARE,
            "train_images": len(reference.train),
        },
        "seed": config.seed,
    }
    if reference.has_classes:
        protocol["probe"] = {"images": len(reference.images), "penalty": PENALTY}
    return protocol | describe_settings(extractors, config, count)


def describe(extractor: Extractor) -> dict[str, Any]:
    """An extractor in the protocol."""
    return {"extractor": extractor.name, "extractor_sha256": extractor.sha256, "resize": extractor.resize}


def check_reference(shape: tuple[int, ...], reference: ReferenceSet) -> None:
    """Whether samples can be measured against these images, which can be asked before there are any samples.

    Args:
        shape: of the samples, (N, H, W, 3).

    Raises:
        ValueError: samples of another size, or fewer than 4 samples or real images.
    """
    if shape[1:] != reference.images.shape[1:]:
        raise ValueError(
            f"Samples are {shape}, the reference images of {reference.name} {reference.images.shape}: height and width "
            "must agree."
        )
    if shape[0] < LEAST_IMAGES or len(reference.images) < LEAST_IMAGES:
        raise ValueError(
            f"{shape[0]} samples and {len(reference.images)} reference images are too few; {LEAST_IMAGES} is least."
        )
