"""evaluate_images: numbers, protocol, floor, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from datamodules.emoji.data import load_emoji
from lightning_modules.metrics.config import METRICS, RESAMPLED, MetricsConfig
from lightning_modules.metrics.distribution import frechet_distance
from lightning_modules.metrics.evaluate import evaluate_images
from lightning_modules.metrics.features import efficientnet_extractor
from lightning_modules.metrics.pixels import PIXEL_MEASURES
from lightning_modules.metrics.reference import ReferenceSet, split_reference


@pytest.fixture(scope="module")
def reference() -> ReferenceSet:
    """A part of the emoji data: 240 images in two halves."""
    data = load_emoji(["twemoji"], "train")
    keep = np.concatenate([np.flatnonzero(data.labels == label)[:80] for label in (0, 3, 8)])
    concepts = [data.concepts[i] for i in keep]
    heldout = load_emoji(["twemoji"], "val").images
    return split_reference("toy", data.images[keep], data.labels[keep], concepts, data.images[keep], heldout)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> MetricsConfig:
    return MetricsConfig(cache_dir=str(tmp_path_factory.mktemp("cache")), kid_subsets=20, bootstrap=50)


LABELS = np.repeat([0, 3, 8], 30)


@pytest.fixture(scope="module")
def real(reference) -> np.ndarray:
    return reference.draw_real(LABELS, seed=5)


@pytest.fixture(scope="module")
def measured(reference, config, real):
    return evaluate_images(real, LABELS, reference, config)


def test_metrics_and_protocol(reference, config, real, measured):
    metrics, protocol, replicates = measured
    against = {"fd_efflite0", "kid_efflite0", "precision_efflite0", "recall_efflite0", "class_accuracy_efflite0"}
    resampled = against | {"memorisation_rate"}
    ends = {f"{name}_{end}" for name in resampled for end in ("low", "high")}
    assert set(metrics) == resampled | ends | {"kid_efflite0_std", *PIXEL_MEASURES} <= set(METRICS)
    assert set(replicates) == resampled <= set(RESAMPLED) and {len(values) for values in replicates.values()} == {50}
    assert all(np.isfinite(value) and isinstance(value, float) for value in metrics.values())
    assert json.loads(json.dumps(protocol)) == protocol
    assert protocol["num_samples"] == 90 and protocol["reference"] == "toy (120 images)"
    assert protocol["reference_fingerprint"] == reference.fingerprint
    assert protocol["extractor"] == "efficientnet-lite0" and len(protocol["extractor_sha256"]) == 64
    assert set(protocol["floor"]) == against | set(PIXEL_MEASURES)
    assert metrics["memorisation_rate"] == 1  # they are training images
    assert evaluate_images(real, LABELS, reference, config) == measured
    for name in against:
        assert metrics[f"{name}_low"] < metrics[name] < metrics[f"{name}_high"]


def test_features_of_samples_are_taken_once(reference, config, real, measured, monkeypatch):
    """The same samples measured again, say with other settings of the bootstrap, cost no pass of the network."""

    def fail(*_: object) -> None:
        raise AssertionError("features were extracted again")

    monkeypatch.setattr(type(efficientnet_extractor()), "__call__", fail)
    again = evaluate_images(real, LABELS, reference, dataclasses.replace(config, bootstrap=20))
    assert again.metrics["fd_efflite0"] == measured.metrics["fd_efflite0"]
    assert len(again.replicates["recall_efflite0"]) == 20


def test_fid_is_not_mentioned_without_its_weights(measured):
    text = json.dumps(measured).lower()
    assert "fid" not in text.replace("fd_efflite0", "") and '"is"' not in text and "inception" not in text


def test_floor_is_the_distance_of_real_images_at_the_same_n(reference, config, real, measured):
    metrics, protocol, _ = measured
    assert protocol["floor"]["fd_efflite0"] == pytest.approx(metrics["fd_efflite0"], rel=0.15)  # other draws, same N
    drawn = reference.draw_real(LABELS, config.seed)
    again, _, _ = evaluate_images(drawn, LABELS, reference, config)
    assert protocol["floor"]["fd_efflite0"] == pytest.approx(again["fd_efflite0"], rel=1e-5)
    extractor = efficientnet_extractor()
    independent = frechet_distance(*(extractor(x, 32, "cpu")["1280"] for x in (drawn, reference.images)))
    assert protocol["floor"]["fd_efflite0"] == pytest.approx(independent, rel=1e-5)
    _, smaller, _ = evaluate_images(real[::3], LABELS[::3], reference, config)
    assert smaller["floor"]["fd_efflite0"] > protocol["floor"]["fd_efflite0"]  # fewer images, higher floor


def test_distances_grow_with_damage(reference, config, real, measured):
    generator = np.random.default_rng(0)
    levels = [measured[0]]
    for sigma in (10, 40, 120):
        noisy = np.clip(real + generator.normal(0, sigma, real.shape), 0, 255).round().astype(np.uint8)
        levels.append(evaluate_images(noisy, LABELS, reference, config)[0])
    for name in ("fd_efflite0", "kid_efflite0"):
        values = [level[name] for level in levels]
        assert values == sorted(values) and values[-1] > 1.5 * max(values[0], 0), name


def test_one_image_repeated_is_worse_than_variety(reference, config, real, measured):
    collapsed, _, _ = evaluate_images(real[[0] * 90], LABELS, reference, config)
    assert collapsed["fd_efflite0"] > 1.5 * measured[0]["fd_efflite0"]
    assert collapsed["recall_efflite0"] < 0.1 < 0.3 < measured[0]["recall_efflite0"]


def test_class_accuracy_falls_when_labels_are_mixed_up(reference, config, real, measured):
    metrics, protocol, _ = measured
    assert metrics["class_accuracy_efflite0"] > 0.7 and protocol["floor"]["class_accuracy_efflite0"] > 0.7
    shifted, _, _ = evaluate_images(real, np.roll(LABELS, 30), reference, config)
    assert shifted["class_accuracy_efflite0"] < 0.3


def test_what_is_not_asked_for_is_not_measured(reference, config, real):
    unlabelled = dataclasses.replace(reference, labels=None)
    plain = dataclasses.replace(config, bootstrap=0)
    metrics, protocol, replicates = evaluate_images(real, LABELS, unlabelled, plain)
    assert not replicates and not any(name.endswith(("_low", "_high")) or "class" in name for name in metrics)
    assert "probe" not in protocol and "bootstrap" not in protocol


def test_no_floor_where_real_images_are_too_few(reference, config):
    labels = np.zeros(50, int)
    metrics, protocol, _ = evaluate_images(reference.images[:50], labels, reference, config)
    assert protocol["floor"] == {} and "fd_efflite0" in metrics


@pytest.mark.parametrize(
    "images,labels,message",
    [
        (np.zeros((8, 16, 16, 3), np.uint8), np.zeros(8), "height and width must agree"),
        (np.zeros((8, 32, 32, 3), np.float32), np.zeros(8), "Samples are float32"),
        (np.zeros((8, 32, 32, 3), np.uint8), np.zeros(7), "8 samples but 7 labels"),
        (np.zeros((3, 32, 32, 3), np.uint8), np.zeros(3), "too few"),
    ],
)
def test_wrong_samples_are_refused(reference, config, images, labels, message):
    with pytest.raises(ValueError, match=message):
        evaluate_images(images, labels, reference, config)


def test_global_random_streams_are_left_alone(reference, config, real):
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(2), np.random.rand(2)
    torch.manual_seed(0)
    np.random.seed(0)
    evaluate_images(real, LABELS, reference, config)
    assert torch.equal(torch.rand(2), expected[0]) and np.array_equal(np.random.rand(2), expected[1])
