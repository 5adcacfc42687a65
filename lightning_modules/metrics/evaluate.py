"""Measure a set of samples against a reference set: the numbers, and the protocol that they were obtained by.

Shapes: N samples, M reference images, H x W pixels.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lightning_modules.metrics import efficientnet, inception
from lightning_modules.metrics.config import MetricsConfig
from lightning_modules.metrics.distribution import frechet_distance, inception_score, kernel_distance
from lightning_modules.metrics.features import Extractor, efficientnet_extractor, inception_extractor
from lightning_modules.metrics.memorisation import HELDOUT_SHARE, SIZE, memorisation
from lightning_modules.metrics.reference import ReferenceSet

log = logging.getLogger(__name__)
IS_SPLITS = 10
KID_SUBSET = 1000


def evaluate_images(
    images: np.ndarray, labels: np.ndarray, reference: ReferenceSet, config: MetricsConfig
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure samples. The same samples give the same numbers.

    FD and KID of EfficientNet-Lite0 features always; FID, KID and IS of Inception features if
    `config.inception_weights` names a file, and never otherwise.

    Args:
        images: (N, H, W, 3) uint8.
        labels: (N,) integers, what each sample was conditioned on.

    Returns:
        metrics: name -> value, names as in `lightning_modules.metrics.config.METRICS`.
        protocol: JSON-ready: N, reference set, extractors and their checksums, settings, and under "floor" the value
            of every distance for real images instead of samples (see `ReferenceSet`); empty if there are too few.

    Raises:
        ValueError: images that do not fit the reference, fewer than 4 of them, or a wrong file of Inception weights.
        FileNotFoundError: no file of Inception weights.
    """
    _check(images, labels, reference)
    extractors = [efficientnet_extractor()]
    if config.inception_weights:  # before any work: a wrong file is refused at once
        extractors.append(inception_extractor(Path(config.inception_weights)))
    real = reference.draw_real(labels, config.seed)
    if real is None:
        log.warning("Too few real images for a floor at N = %d with these labels.", len(images))

    metrics: dict[str, float] = {}
    floor: dict[str, float] = {}
    cache = Path(config.cache_dir) if config.cache_dir else None
    for extractor in extractors:
        expected = extractor.cached(reference.images, config.batch_size, config.device, cache)
        metrics |= _distances(extractor, extractor(images, config.batch_size, config.device), expected, config)
        if real is not None:
            found = extractor.cached(real, config.batch_size, config.device, cache)
            floor |= _distances(extractor, found, expected, config)
    copies = memorisation(images, reference.train, reference.heldout)
    metrics["memorisation_rate"] = copies.rate
    protocol = {
        "num_samples": len(images),
        "reference": f"{reference.name} ({len(reference.images)} images)",
        "reference_fingerprint": reference.fingerprint,
        **_describe(extractors[0]),
        "floor": {name: value for name, value in floor.items() if not name.endswith("_std")},
        "kid": {"subsets": config.kid_subsets, "subset_size": _subset_size(len(images), len(reference.images))},
        "memorisation": {
            "distance": f"RMS of {SIZE}x{SIZE} pixels, mirrored images included",
            "threshold": copies.threshold,
            "heldout_share": HELDOUT_SHARE,
            "train_images": len(reference.train),
        },
        "seed": config.seed,
    }
    if len(extractors) > 1:
        protocol["inception"] = _describe(extractors[1]) | {"is_splits": _splits(len(images))}
    return metrics, protocol


def _distances(
    extractor: Extractor, found: dict[str, Tensor], expected: dict[str, Tensor], config: MetricsConfig
) -> dict[str, float]:
    """All measures of one extractor: {layer: (N, D)} against {layer: (M, D)}."""
    is_inception = extractor.name == inception.NAME
    layer = inception.LAYER if is_inception else efficientnet.LAYER
    fd, kid = ("fid", "kid") if is_inception else ("fd_efflite0", "kid_efflite0")
    left, right = found[layer], expected[layer]
    estimate = kernel_distance(left, right, config.kid_subsets, _subset_size(len(left), len(right)), config.seed)
    result = {fd: frechet_distance(left, right), kid: estimate.mean, f"{kid}_std": estimate.std}
    if is_inception:
        score = inception_score(found[inception.LOGITS], _splits(len(left)), config.seed)
        result |= {"is": score.mean, "is_std": score.std}
    return result


def _subset_size(samples: int, references: int) -> int:
    """Half of the smaller set, so that subsets differ, and no more than the usual 1000."""
    return min(KID_SUBSET, samples // 2, references // 2)


def _splits(samples: int) -> int:
    return min(IS_SPLITS, samples)


def _describe(extractor: Extractor) -> dict[str, Any]:
    return {"extractor": extractor.name, "extractor_sha256": extractor.sha256, "resize": extractor.resize}


def _check(images: np.ndarray, labels: np.ndarray, reference: ReferenceSet) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != reference.images.shape[1:]:
        raise ValueError(
            f"Samples are {images.dtype} {images.shape}, the reference images of {reference.name} "
            f"uint8 {reference.images.shape}: height, width and type must agree."
        )
    if len(labels) != len(images):
        raise ValueError(f"There are {len(images)} samples but {len(labels)} labels.")
    if len(images) < 4 or len(reference.images) < 4:
        raise ValueError(f"{len(images)} samples and {len(reference.images)} reference images are too few; 4 is least.")
