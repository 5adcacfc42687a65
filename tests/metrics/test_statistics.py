"""Reference statistics: exact moments, ADM's file layout, and the same distances as against the images themselves."""

import re
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_modules.metrics import efficientnet, inception
from lightning_modules.metrics.against import evaluate_against
from lightning_modules.metrics.config import METRICS, MetricsConfig
from lightning_modules.metrics.distribution import frechet_distance
from lightning_modules.metrics.evaluate import evaluate_images
from lightning_modules.metrics.features import efficientnet_extractor
from lightning_modules.metrics.reference import ReferenceSet
from lightning_modules.metrics.statistics import (
    Moments,
    ReferenceStatistics,
    collect_statistics,
    read_statistics,
    write_statistics,
)

CONFIG = MetricsConfig(kid_subsets=3, cache_dir="", bootstrap=8)


def noise(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def unlabelled(*batches: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(images, np.zeros(len(images), int)) for images in batches]


@pytest.fixture(scope="module")
def real():
    return noise(0, 20)


@pytest.fixture(scope="module")
def made(real, tmp_path_factory):
    """A file of statistics of 20 images in batches of 8, 6 of them kept."""
    path = tmp_path_factory.mktemp("statistics") / "reference.npz"
    batches = unlabelled(real[:8], real[8:16], real[16:])
    write_statistics(path, collect_statistics("toy/val", batches, [efficientnet_extractor()], 6, 8, "cpu"))
    return path


def test_running_moments_are_those_of_numpy():
    features = np.random.default_rng(0).normal(100, 1, (50, 7))
    moments = Moments()
    for part in np.split(features, [3, 20, 49]):
        moments.add(torch.from_numpy(part))
    mean, covariance = moments.result()
    np.testing.assert_allclose(mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features.T), rtol=1e-9, atol=1e-12)


def test_the_stand_in_has_exactly_these_moments():
    features = np.random.default_rng(0).normal(5, 2, (4, 7))  # fewer points than dimensions
    statistics = ReferenceStatistics("x", 4, {"layer": (features.mean(0), np.cov(features.T))})
    stand_in = statistics.stand_in("layer").numpy()
    np.testing.assert_allclose(stand_in.mean(0), features.mean(0), atol=1e-12)
    np.testing.assert_allclose(np.cov(stand_in.T), np.cov(features.T), atol=1e-10)


def test_distances_are_those_to_the_images(real, made):
    statistics = read_statistics(made)
    assert (statistics.name, statistics.count, statistics.image_size) == ("toy/val", 20, 32)
    assert statistics.images.shape == (6, 32, 32, 3)
    assert {image.tobytes() for image in statistics.images} <= {image.tobytes() for image in real}
    samples, labels = noise(1, 12), np.zeros(12, int)
    expected = evaluate_images(samples, labels, ReferenceSet("toy", real, real, np.zeros(20), real, real), CONFIG)
    found = evaluate_against(samples, statistics, CONFIG)
    assert found.metrics["fd_efflite0"] == pytest.approx(expected.metrics["fd_efflite0"], rel=1e-4)
    for name in ("fd_efflite0_low", "fd_efflite0_high"):
        assert found.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-2)
    assert set(found.metrics) <= set(METRICS) and "kid_efflite0" in found.metrics
    assert "memorisation_rate" not in found.metrics and found.protocol["floor"] == {}
    assert "training images" in found.protocol["not_measured"]["memorisation"]
    assert "keeps 6 images" in found.protocol["not_measured"]["floor"]
    assert found.protocol["reference"] == "toy/val (statistics of 20 images, 6 images kept)"
    assert found.protocol["reference_fingerprint"] == statistics.fingerprint


def test_floor_of_the_images_kept(tmp_path):
    """Real images against real ones at N: above 0, below what noise of another kind measures."""
    images, path = noise(5, 60), tmp_path / "reference.npz"
    write_statistics(path, collect_statistics("toy/val", unlabelled(images), [efficientnet_extractor()], 8, 8, "cpu"))
    found = evaluate_against(noise(6, 6) // 2, read_statistics(path), CONFIG)
    assert 0 < found.protocol["floor"]["fd_efflite0"] < found.metrics["fd_efflite0"]
    assert set(found.protocol["not_measured"]) == {"memorisation", "class accuracy"}
    found = evaluate_against(noise(6, 7), read_statistics(path), CONFIG)
    assert "no more than 10% of the reference's 60 images, and needs 7" in found.protocol["not_measured"]["floor"]


def test_all_that_is_missing_is_named(made):
    """Moments without images; then moments of other features than those that were taken."""
    whole = read_statistics(made)
    bare = replace(whole, images=None)
    always = {"memorisation", "class accuracy", "floor", "KID, precision, recall, colour distance"}
    found = evaluate_against(noise(1, 8), bare, CONFIG)
    assert "fd_efflite0" in found.metrics and set(found.protocol["not_measured"]) == always
    other = replace(bare, moments={inception.LAYER: (np.zeros(2048), np.eye(2048))})
    found = evaluate_against(noise(1, 8), other, CONFIG)
    assert not found.metrics and set(found.protocol["not_measured"]) == always | {"FD-EffLite0"}


CLASSES = ("cat", "dog", "owl")


def of_classes(seed: int, labels: np.ndarray) -> np.ndarray:
    """Noise, the darker the lower its label."""
    return (noise(seed, len(labels)) * (labels[:, None, None, None] + 1) // 3).astype(np.uint8)


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    """All of 21 images of three classes, kept."""
    path, labels = tmp_path_factory.mktemp("classified") / "reference.npz", np.arange(21) % 3
    batches = [(of_classes(0, labels)[part], labels[part]) for part in (slice(8), slice(8, None))]
    made = collect_statistics("toy/val", batches, [efficientnet_extractor()], 30, 8, "cpu", CLASSES)
    write_statistics(path, made)
    return read_statistics(path)


def test_class_accuracy_is_that_of_the_images_themselves(classified):
    assert classified.classes == CLASSES and classified.labels.tolist() == [0, 1, 2] * 7
    asked = np.arange(12) % 3
    samples = of_classes(1, np.where(np.arange(12) < 8, asked, 2))  # some are not what was asked for
    real, labels = classified.images, classified.labels
    expected = evaluate_images(samples, asked, ReferenceSet("toy", real, real, labels, real, real, labels), CONFIG)
    found = evaluate_against(samples, classified, CONFIG, None, asked, CLASSES)
    names = [f"class_accuracy_efflite0{end}" for end in ("", "_low", "_high")]
    assert [found.metrics[name] for name in names] == [expected.metrics[name] for name in names]
    assert 0.5 < found.metrics[names[0]] < 1
    assert found.replicates[names[0]] == expected.replicates[names[0]]
    assert found.protocol["probe"] == expected.protocol["probe"] and found.protocol["probe"]["images"] == 21
    assert "class accuracy" not in found.protocol["not_measured"] and names[0] not in found.protocol["floor"]
    assert "fitted on all" in found.protocol["not_measured"]["class accuracy of real images"]
    with pytest.raises(ValueError, match="12 samples but 11 labels"):
        evaluate_against(samples, classified, CONFIG, None, asked[:11], CLASSES)


@pytest.mark.parametrize(
    ("changed", "classes", "reason"),
    [
        ({"labels": None, "classes": ()}, CLASSES, "the file names no classes"),
        ({"labels": None}, CLASSES, "keeps no images of its classes"),
        ({}, (), "of what classes the samples should be is not known"),
        ({}, CLASSES[:2], "the file has 3 classes, the samples are of 2"),
        ({}, ("cat", "owl", "dog"), "class 1 is 'dog' in the file, but 'owl' where samples were asked for"),
        ({}, ("0", "1", "2"), "class 0 is 'cat' in the file, but '0'"),
        ({"labels": np.ones(21, np.int32)}, CLASSES, "all images that the file keeps are of the class 'dog'"),
        ({"labels": np.arange(21) % 2}, CLASSES, "no image of 1 of the 3 classes .* `ablate reference --keep N`, N ab"),
    ],
)
def test_why_there_is_no_class_accuracy(classified, changed, classes, reason):
    found = evaluate_against(noise(1, 8), replace(classified, **changed), CONFIG, None, np.arange(8) % 3, classes)
    assert "class_accuracy_efflite0" not in found.metrics and "probe" not in found.protocol
    assert re.search(reason, found.protocol["not_measured"]["class accuracy"])
    assert "class accuracy of real images" not in found.protocol["not_measured"]


def test_numbers_of_imagenets_classes_are_in_the_order_of_its_synsets(classified):
    """Runs whose data are gone know no names, and neither do shards."""
    synsets, numbers = tuple(f"n{i:08d}" for i in range(1000)), tuple(map(str, range(1000)))
    for of_file, of_samples in ((synsets, numbers), (numbers, synsets), (synsets, synsets), (synsets, synsets[::-1])):
        reference, labels = replace(classified, classes=of_file), np.arange(8) % 3
        found = evaluate_against(noise(1, 8), reference, CONFIG, None, labels, of_samples)
        assert ("class_accuracy_efflite0" in found.metrics) is (of_samples != synsets[::-1])


def test_labels_stay_with_the_images_that_are_kept():
    labels = np.arange(40) % 5
    images = np.broadcast_to(labels[:, None, None, None].astype(np.uint8), (40, 8, 8, 3))
    batches = [(images[part], labels[part]) for part in (slice(15), slice(15, None))]
    made = collect_statistics("toy", batches, [], 7, 8, "cpu", tuple("abcde"))
    assert made.labels.tolist() == made.images[:, 0, 0, 0].tolist() != [0, 1, 2, 3, 4, 0, 1]
    assert collect_statistics("toy", batches, [], 7, 8, "cpu").labels is None, "without names they mean nothing"
    assert collect_statistics("toy", batches, [], 0, 8, "cpu", tuple("abcde")).labels is None


def test_labels_of_a_file(classified, tmp_path):
    """Those that fit no image or no class are refused; without names they are none, as of samples that a run keeps."""
    for labels in (np.zeros(20, int), np.full(21, 3), np.full(21, -1), np.zeros(21)):
        write_statistics(tmp_path / "wrong.npz", replace(classified, labels=labels))
        with pytest.raises(ValueError, match=rf"has labels {labels.dtype} .* from 0 to 2, one for each of its 21"):
            read_statistics(tmp_path / "wrong.npz")
    np.savez(tmp_path / "samples.npz", arr_0=classified.images, labels=np.full(21, 7))
    samples = read_statistics(tmp_path / "samples.npz")
    assert samples.labels is None and samples.classes == ()


def test_layout_of_adm(tmp_path):
    """As guided-diffusion publishes it: no names, no count, moments and images."""
    mean, covariance = np.zeros(2048), np.eye(2048)
    spatial = {"mu_s": np.zeros(2023, np.float32), "sigma_s": np.eye(2023, dtype=np.float32)}
    np.savez(tmp_path / "VIRTUAL_imagenet256_labeled.npz", arr_0=noise(0, 5), mu=mean, sigma=covariance, **spatial)
    statistics = read_statistics(tmp_path / "VIRTUAL_imagenet256_labeled.npz")
    assert set(statistics.moments) == {inception.LAYER, inception.SPATIAL}
    assert statistics.name == "VIRTUAL_imagenet256_labeled.npz" and statistics.image_size == 32
    other = torch.randn(5000, 40, generator=torch.Generator().manual_seed(0)).double()
    small = ReferenceStatistics("s", 0, {"layer": (np.zeros(40), np.eye(40))})
    assert abs(frechet_distance(other + 1, small.stand_in("layer")) - 40) < 3  # |shift|^2 = 40
    found = evaluate_against(noise(1, 8), statistics, CONFIG)
    assert found.metrics["fd_efflite0"] > 0  # to the images, since the file has no moments of these features


def test_what_does_not_fit_is_refused(made, tmp_path):
    statistics = read_statistics(made)
    with pytest.raises(ValueError, match="32 x 32 pixels"):
        evaluate_against(np.zeros((8, 64, 64, 3), np.uint8), statistics, CONFIG)
    with pytest.raises(ValueError, match="too few"):
        evaluate_against(noise(0, 3), statistics, CONFIG)
    with pytest.raises(ValueError, match="keeps 3 of its images, too few"):
        evaluate_against(noise(0, 8), replace(statistics, images=statistics.images[:3]), CONFIG)
    statistics.extractors[efficientnet.LAYER] = "another"
    with pytest.raises(ValueError, match="make it anew"):
        evaluate_against(noise(0, 8), statistics, CONFIG)
    with pytest.raises(FileNotFoundError, match="ablate reference"):
        read_statistics(tmp_path / "absent.npz")
    (tmp_path / "damaged.npz").write_bytes(made.read_bytes()[:-100])
    (tmp_path / "notes.txt").write_text("notes")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("damaged.npz", "notes.txt", "one.npy"):
        with pytest.raises(ValueError, match="damaged or no npz file .*`ablate reference`") as caught:
            read_statistics(tmp_path / name)
        assert "pickle" not in str(caught.value)
    for arrays, message in (
        ({"x": np.zeros(3)}, "neither mu and sigma nor images"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "width 2048"),
        ({"arr_0": np.zeros((2, 8, 8, 3))}, "uint8 images"),
    ):
        np.savez(tmp_path / "other.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            read_statistics(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="too few for statistics"):
        collect_statistics("toy", unlabelled(noise(0, 1)), [], 1, 8, "cpu")


def test_kept_images_do_not_hold_their_batches():
    """Ten thousand kept out of a million would otherwise hold most of the million in memory."""
    made_so_far, living = [], []

    def batches():
        for seed in range(5):
            batch = noise(seed, 4)
            made_so_far.append(weakref.ref(batch))
            living.append(sum(reference() is not None for reference in made_so_far))
            yield batch, np.zeros(4, int)
            del batch

    made = collect_statistics("toy", batches(), [], keep=12, batch_size=4, device="cpu")
    assert len(made.images) == 12 and max(living) <= 2, "the one at hand and the one before"
