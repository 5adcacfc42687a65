"""Measure a set of samples against the real images themselves.

Shapes: N samples, M reference images, H x W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from lightning_modules.metrics.config import LEAST_IMAGES, MetricsConfig
from lightning_modules.metrics.features import Extractor
from lightning_modules.metrics.measurement import (
    Measurement,
    check_samples,
    features,
    make_extractors,
    measure_samples,
    with_mean,
)
from lightning_modules.metrics.measures import Expected, class_hits, measure
from lightning_modules.metrics.memorisation import HELDOUT_SHARE, SIZE, memorisation
from lightning_modules.metrics.pixels import pixel_measures
from lightning_modules.metrics.reference import ReferenceSet

log = logging.getLogger(__name__)


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
    features, if `config.inception_weights` and `config.dinov2_weights` name files, and never otherwise. The floor of
    each is described in `ReferenceSet`.

    Args:
        images: (N, H, W, 3) uint8.
        labels: (N,) integers, what each sample was conditioned on.
        extractors: those of `make_extractors(config)`, where they are made already.

    Raises:
        ValueError: images that do not fit the reference, fewer than 4 of them, or a wrong file of weights.
        FileNotFoundError: no such file of weights.
    """
    check_samples(images, labels)
    check_reference(images.shape, reference)
    real = reference.draw_real(labels, config.seed)
    if real is None:
        log.warning("Too few real images for a floor at N = %d with these labels.", len(images))

    def against(extractor: Extractor) -> tuple[Expected, dict[str, float]]:
        found = features(extractor, reference.images, config)
        expected = Expected(found, hits=class_hits(found, reference.labels, labels))
        if real is None:
            return expected, {}
        return expected, measure(features(extractor, real, config), expected, config).metrics

    measured = measure_samples(images, reference, config, extractors or make_extractors(config), against)
    if real is not None:
        measured.protocol["floor"] |= pixel_measures(real, reference.images)
    copies = memorisation(images, reference.train, reference.heldout)
    measured.protocol["memorisation"] = {
        "distance": f"RMS of {SIZE}x{SIZE} pixels, mirrored images included",
        "heldout_share": HELDOUT_SHARE,
        "train_images": len(reference.train),
        "threshold": copies.threshold,
    }
    return with_mean(measured, "memorisation_rate", copies.found, config)


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
