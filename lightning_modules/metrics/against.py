"""Measure a set of samples against reference statistics, where the real images themselves are not at hand.

Shapes: N samples, H x W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from lightning_modules.metrics.config import LEAST_IMAGES, METRICS, MetricsConfig
from lightning_modules.metrics.features import Extractor
from lightning_modules.metrics.measurement import (
    Measurement,
    check_samples,
    features,
    make_extractors,
    measure_samples,
)
from lightning_modules.metrics.measures import LAYERS, Expected, class_hits, measure
from lightning_modules.metrics.reference_file import check_images
from lightning_modules.metrics.statistics import ReferenceStatistics

log = logging.getLogger(__name__)
LARGEST_SHARE = 0.1
"""Of the images that moments are of, how many may stand in for new real images, to tell the floor."""
IMAGENET_CLASSES = 1000
"""So many classes are ImageNet's, in the order of the synsets, also where they are only numbered."""


def evaluate_against(
    images: np.ndarray,
    reference: ReferenceStatistics,
    config: MetricsConfig,
    extractors: Mapping[str, Extractor] | None = None,
    labels: np.ndarray | None = None,
    classes: Sequence[str] = (),
) -> Measurement:
    """Fréchet distances to the moments in the file (to its images, where it has no moments of these features); KID,
    precision, recall and measures of the pixels to its images, if any; class accuracy, where it names their classes;
    Inception score. The floor of a Fréchet distance is that of N of the file's own images, where N is a small part of
    what the moments are of. Memorisation, which needs the training images, is not measured. The protocol says under
    "not_measured" what is missing, and why.

    Args:
        images: (N, H, W, 3) uint8.
        extractors: those of `make_extractors(config)`, where they are made already.
        labels: (N,) integers, what each sample was asked for; None where it was no class.
        classes: their names in label order.

    Raises:
        ValueError: as `check_statistics` does.
        FileNotFoundError: no such file of weights.
    """
    check_samples(images, labels)
    extractors = extractors or make_extractors(config)
    check_statistics(images.shape, reference, extractors)
    no_accuracy, no_floor = _no_class_accuracy(labels, classes, reference), _no_floor(len(images), reference)
    chosen = np.random.default_rng(config.seed).permutation(reference.kept)[: len(images)]

    def against(extractor: Extractor) -> tuple[Expected, dict[str, float]]:
        layers = [layer for layer in extractor.network.features_list if layer in reference.moments]
        stand_ins = {layer: reference.stand_in(layer) for layer in layers}
        found = {} if reference.images is None else features(extractor, reference.images, config)
        hits = None if no_accuracy else class_hits(found, reference.labels, labels)
        # Images that are part of the reference must be held against its moments alone.
        real = {} if no_floor else {layer: found[layer][chosen] for layer in layers}
        return Expected(found, stand_ins, hits), measure(real, Expected({}, stand_ins), config).metrics

    measured = measure_samples(images, reference, config, extractors, against)
    reasons = {
        "memorisation": "needs the training images themselves",
        "class accuracy": no_accuracy,
        "class accuracy of real images": "" if no_accuracy else "the probe is fitted on all images that the file keeps",
        "floor": no_floor,
        **_without_images(reference, extractors),
    }
    not_measured = {name: reason for name, reason in reasons.items() if reason}
    for name, reason in not_measured.items():
        log.warning("not measured: %s: %s", name, reason)
    measured.protocol["moments"] = sorted(LAYERS[layer].frechet for layer in reference.moments)
    measured.protocol["not_measured"] = not_measured
    return measured


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


def _no_floor(count: int, reference: ReferenceStatistics) -> str:
    """Why there is none; empty if there is."""
    if not reference.moments or reference.kept < count:
        return f"the file keeps {reference.kept:,} images; {count:,} are needed, and moments of more"
    if reference.count and count > LARGEST_SHARE * reference.count:
        most = f"{LARGEST_SHARE:.0%} of the reference's {reference.count:,} images"
        return f"it may take no more than {most}, and needs {count:,}"
    return ""


def _no_class_accuracy(labels: np.ndarray | None, classes: Sequence[str], reference: ReferenceStatistics) -> str:
    """Why there is none; empty if there is."""
    if not reference.classes:
        return "the file names no classes"
    if reference.labels is None:
        return "the file keeps no images of its classes"
    if labels is None or not classes:
        return "of what classes the samples should be is not known"
    if len(classes) != len(reference.classes):
        return f"the file has {len(reference.classes):,} classes, the samples are of {len(classes):,}"
    numbers = list(map(str, range(len(classes))))
    numbered = len(classes) == IMAGENET_CLASSES and numbers in (list(classes), list(reference.classes))
    for label, (one, other) in enumerate(zip(reference.classes, classes, strict=True)):
        if one != other and not numbered:
            return f"class {label} is '{one}' in the file, but '{other}' where samples were asked for"
    kept, asked = np.unique(reference.labels), np.unique(labels)
    if len(kept) < 2:
        return f"all images that the file keeps are of the class '{reference.classes[kept[0]]}'"
    if missing := len(np.setdiff1d(asked, kept)):
        return (
            f"the file keeps no image of {missing:,} of the {len(asked):,} classes that samples were asked for; make "
            f"it anew with `ablate reference --keep N`, N above {reference.kept:,}"
        )
    return ""


def _without_images(reference: ReferenceStatistics, extractors: Mapping[str, Extractor]) -> dict[str, str]:
    """What cannot be said for want of images in the file -> why."""
    if reference.images is not None:
        return {}
    reasons = {"KID, precision, recall, colour distance": "the file keeps no images"}
    used = {layer for extractor in extractors.values() for layer in extractor.network.features_list}
    for layer, names in LAYERS.items():
        if layer in used - reference.moments.keys():
            reasons[METRICS[names.frechet].label] = "the file has neither moments of these features nor images"
    return reasons
