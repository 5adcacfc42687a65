"""One function for features of single reference images and for moments alone; one frame for images and for files."""

import numpy as np
import pytest
import torch

from lightning_modules.metrics import efficientnet, inception
from lightning_modules.metrics.against import evaluate_against
from lightning_modules.metrics.bootstrap import resamples
from lightning_modules.metrics.config import IS_LEAST, MetricsConfig
from lightning_modules.metrics.distribution import frechet_distance
from lightning_modules.metrics.evaluate import evaluate_images
from lightning_modules.metrics.measures import CLASS_ACCURACY, LAYERS, Expected, measure, subset_size
from lightning_modules.metrics.reference import ReferenceSet
from lightning_modules.metrics.shares import SHARES
from lightning_modules.metrics.statistics import ReferenceStatistics

CONFIG = MetricsConfig(kid_subsets=3, cache_dir="", bootstrap=8)


def points(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layer", [efficientnet.LAYER, inception.SPATIAL])
def test_what_is_measured_follows_from_what_there_is(layer):
    """Moments come before images in the Fréchet distance, and all else needs images."""
    found, images, stand_ins = ({layer: points(seed, 20 + seed)} for seed in range(3))
    names, weights = LAYERS[layer], resamples(20, 8, 0)
    by_image = {name for name in names[1:] if name}
    for expected, held_against, needs_images in (
        (Expected(images), images, by_image),
        (Expected({}, stand_ins), stand_ins, set()),
        (Expected(images, stand_ins), stand_ins, by_image),
    ):
        metrics, replicates = measure(found, expected, CONFIG, weights)
        assert metrics[names.frechet] == frechet_distance(found[layer], held_against[layer])
        assert {name for name in metrics if not name.endswith("_std")} == {names.frechet} | needs_images
        assert set(replicates) == {names.frechet} | needs_images
        assert measure(found, expected, CONFIG) == (metrics, {})
    assert measure(found, Expected({}), CONFIG, weights) == ({}, {})


def test_replicates_begin_where_there_are_samples_enough():
    """Of precision and recall with five: one may be left out, and three neighbours of each are left."""
    layer, images = efficientnet.LAYER, {efficientnet.LAYER: points(1, 9)}
    for count, there in ((4, False), (5, True)):
        replicates = measure({layer: points(0, count)}, Expected(images), CONFIG, resamples(count, 8, 0)).replicates
        assert {"precision_efflite0" in replicates, "recall_efflite0" in replicates} == {there}
    for count in (IS_LEAST - 1, IS_LEAST):
        found = measure({inception.LOGITS: points(0, count)}, Expected({}), CONFIG, resamples(count, 8, 0))
        assert "is" in found.metrics and ("is" in found.replicates) is (count == IS_LEAST)


@pytest.mark.parametrize(("samples", "references", "size"), [(9, 30, 4), (30, 9, 4), (50_000, 5000, 1000)])
def test_subsets_hold_half_of_the_smaller_set(samples, references, size):
    assert subset_size(samples, references) == size


def test_shares_are_known_as_such():
    """Their intervals are Wilson's."""
    of_layers = {name for names in LAYERS.values() for name in (names.precision, names.recall) if name}
    assert SHARES == of_layers | {CLASS_ACCURACY, "memorisation_rate"}


def test_a_file_of_images_alone_gives_the_numbers_of_these_images():
    real, samples = (np.random.default_rng(seed).integers(0, 256, (12, 32, 32, 3)).astype(np.uint8) for seed in (0, 1))
    expected = evaluate_images(samples, np.zeros(12), ReferenceSet("x", real, real, np.ones(12), real, real), CONFIG)
    found = evaluate_against(samples, ReferenceStatistics("x", 0, {}, real), CONFIG)
    copied = {name for name in expected.metrics if "memorisation" in name}
    assert len(copied) == 3
    assert found.metrics == {name: value for name, value in expected.metrics.items() if name not in copied}
    assert found.replicates == {name: row for name, row in expected.replicates.items() if name not in copied}
    same = ("num_samples", "extractor_sha256", "kid", "precision_recall", "seed", "bootstrap", "floor")
    assert {key: found.protocol[key] for key in same} == {key: expected.protocol[key] for key in same}
