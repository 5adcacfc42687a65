"""Reference statistics: exact moments, ADM's file layout, and the same distances as against the images themselves."""

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


@pytest.fixture(scope="module")
def real():
    return noise(0, 20)


@pytest.fixture(scope="module")
def made(real, tmp_path_factory):
    """A file of statistics of 20 images in batches of 8, 6 of them kept."""
    path = tmp_path_factory.mktemp("statistics") / "reference.npz"
    batches = [real[:8], real[8:16], real[16:]]
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
    write_statistics(path, collect_statistics("toy/val", [images], [efficientnet_extractor()], 8, 8, "cpu"))
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
        collect_statistics("toy", [noise(0, 1)], [], 1, 8, "cpu")


def test_kept_images_do_not_hold_their_batches():
    """Ten thousand kept out of a million would otherwise hold most of the million in memory."""
    made_so_far, living = [], []

    def batches():
        for seed in range(5):
            batch = noise(seed, 4)
            made_so_far.append(weakref.ref(batch))
            living.append(sum(reference() is not None for reference in made_so_far))
            yield batch
            del batch

    made = collect_statistics("toy", batches(), [], keep=12, batch_size=4, device="cpu")
    assert len(made.images) == 12 and max(living) <= 2, "the one at hand and the one before"
