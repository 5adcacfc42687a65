"""The path to true FID and IS, with random weights in the published layout."""

import numpy as np
import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3 as published

from lightning_modules.metrics.config import METRICS, MetricsConfig
from lightning_modules.metrics.evaluate import evaluate_images
from lightning_modules.metrics.features import inception_extractor
from lightning_modules.metrics.inception import PUBLISHED
from lightning_modules.metrics.reference import split_reference


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file like weights-inception-2015-12-05-6726825d.pth, with random values."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(published.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = published.FeatureExtractorInceptionV3("random", ["2048"], verbose=False)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def reference():
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
    return split_reference("toy", images, np.zeros(16, int), [str(i) for i in range(16)], images, images)


def test_fid_and_is(weights, reference, tmp_path, caplog):
    config = MetricsConfig(str(weights), kid_subsets=3, cache_dir=str(tmp_path))
    images = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    metrics, protocol = evaluate_images(images, np.zeros(6, int), reference, config)
    assert {"fid", "kid", "kid_std", "is", "is_std", "fd_efflite0", "kid_efflite0"} <= set(metrics) <= set(METRICS)
    assert metrics["fid"] > 0 and metrics["is"] >= 1
    assert set(protocol["floor"]) == {"fid", "kid", "is", "fd_efflite0", "kid_efflite0"}
    assert protocol["inception"]["extractor"] == "inception-v3-compat"
    assert len(protocol["inception"]["extractor_sha256"]) == 64
    assert "checksum of the published" in caplog.text

    theirs = published.FeatureExtractorInceptionV3("check", ["2048"], feature_extractor_weights_path=str(weights))
    x, y = (theirs(torch.from_numpy(a).permute(0, 3, 1, 2))[0].double().numpy() for a in (images, reference.images))
    a, b = (x - x.mean(0)) / np.sqrt(len(x) - 1), (y - y.mean(0)) / np.sqrt(len(y) - 1)
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * np.linalg.norm(a @ b.T, "nuc")
    assert metrics["fid"] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_wrong_weight_files_are_refused(tmp_path, reference):
    config, images = MetricsConfig(cache_dir=""), reference.images
    text, pickled, other, nested = (tmp_path / name for name in ("a.txt", "b.pth", "c.pth", "d.pth"))
    text.write_text("not weights")
    torch.save(torch.nn.Linear(2, 2), pickled)  # a whole module, that is: code
    torch.save(torch.nn.Linear(2, 2).state_dict(), other)
    torch.save({"state_dict": {}}, nested)
    for path, message in [
        (text, "not a file of PyTorch weights"),
        (pickled, "not a file of PyTorch weights"),
        (other, "another network than Inception-v3"),
        (nested, "does not hold a dictionary of weights"),
    ]:
        config.inception_weights = str(path)
        with pytest.raises(ValueError, match=f"{path.name} .*{message}.*{PUBLISHED}") as caught:
            evaluate_images(images, np.zeros(len(images), int), reference, config)
        assert "\n" not in str(caught.value)
    config.inception_weights = str(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="leave evaluation.inception_weights empty"):
        evaluate_images(images, np.zeros(len(images), int), reference, config)


def test_a_truncated_download_is_refused(weights, tmp_path):
    path = tmp_path / "truncated.pth"
    path.write_bytes(weights.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match="not a file of PyTorch weights"):
        inception_extractor(path)
