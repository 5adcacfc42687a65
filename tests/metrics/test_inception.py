"""The path to true FID, sFID and IS, with random weights in the published layout."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity
from torch_fidelity import feature_extractor_inceptionv3 as published
from torch_fidelity.metric_fid import fid_features_to_statistics
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from lightning_modules.metrics import inception
from lightning_modules.metrics.config import METRICS, MetricsConfig
from lightning_modules.metrics.distribution import (
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
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
    metrics, protocol, replicates = evaluate_images(images, np.zeros(6, int), reference, config)
    names = {"fid", "sfid", "kid", "is", "precision", "recall"}
    assert names | {"kid_std", "is_std", "fid_low", "sfid_high", "fd_efflite0"} <= set(metrics)
    assert set(metrics) <= set(METRICS) and {"fid", "sfid"} <= set(replicates)
    assert "is" not in replicates, "of 6 images"
    assert metrics["fid"] > 0 and metrics["is"] >= 1
    assert names <= set(protocol["floor"])
    assert protocol["inception"]["extractor"] == "inception-v3-compat"
    assert len(protocol["inception"]["extractor_sha256"]) == 64
    assert "checksum of the published" in caplog.text

    theirs = published.FeatureExtractorInceptionV3("check", ["2048"], feature_extractor_weights_path=str(weights))
    spatial = []
    theirs.Mixed_6d.register_forward_hook(lambda _, __, out: spatial.append(out[:, :7].permute(0, 2, 3, 1).flatten(1)))
    pooled = [theirs(torch.from_numpy(a).permute(0, 3, 1, 2))[0] for a in (images, reference.images)]
    assert metrics["fid"] == pytest.approx(frechet_float64(*pooled), rel=1e-3, abs=1e-6)
    assert spatial[0].shape == (6, 2023)  # as ADM flattens them: height, width, channel
    assert metrics["sfid"] == pytest.approx(frechet_float64(*spatial), rel=1e-3, abs=1e-6)


def test_spatial_features_lie_in_the_order_of_adm(weights):
    """A distance of two sets in one order is that in another; published means and covariances fit one order alone."""
    images = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    extractor, blocks = inception_extractor(weights), []
    extractor.network.network.Mixed_6d.register_forward_hook(lambda _, __, out: blocks.append(out))
    found = extractor(images, 2, "cpu")[inception.SPATIAL]
    channels_last = blocks[0].permute(0, 2, 3, 1)
    assert channels_last.shape == (2, 17, 17, 768) and found.std() > 0
    torch.testing.assert_close(found, channels_last[..., :7].reshape(2, -1), rtol=0, atol=0)
    by_channel = replace(extractor, network=SimpleNamespace(features_list=("2048", "logits_unbiased", "spatial")))
    assert extractor.fingerprint != by_channel.fingerprint, "features that were kept in another order are not taken"


def frechet_float64(left, right):
    """The distance of two sets of features by singular values, where there are fewer images than features."""
    x, y = left.double().numpy(), right.double().numpy()
    a, b = (x - x.mean(0)) / np.sqrt(len(x) - 1), (y - y.mean(0)) / np.sqrt(len(y) - 1)
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * np.linalg.norm(a @ b.T, "nuc")


class Looked(torch.nn.Module):
    """Features that were extracted before, as the network of a torchmetrics metric: "images" hold their numbers."""

    def __init__(self, *features):
        super().__init__()
        self.features = torch.cat(features)

    def forward(self, images):
        return self.features[images[:, 0, 0, 0].long() % len(self.features)]  # a first look is at a random image


@pytest.mark.filterwarnings("ignore")
def test_torch_fidelity_and_torchmetrics_agree(weights):
    """Three implementations, the same images, the same (random) weights.

    FID by torch-fidelity is in test_distribution, on smaller features: those of Inception take it ten seconds.
    """
    count, generator = 6, np.random.default_rng(3)
    left, right = (generator.integers(0, level, (count, 32, 32, 3)).astype(np.uint8) for level in (256, 200))
    extractor = inception_extractor(weights)
    ours = [extractor(images, count, "cpu") for images in (left, right)]
    x, y = (found[inception.LAYER] for found in ours)
    kid = kernel_distance(x, y, subsets=4, subset_size=3, seed=0)
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(left),
        input2=Images(right),
        feature_extractor=inception.NAME,
        feature_extractor_weights_path=str(weights),
        **dict.fromkeys(["kid", "isc", "prc"], True),
        kid_subsets=4,
        kid_subset_size=3,
        isc_splits=2,
        rng_seed=0,
        cuda=False,
        cache=False,
        verbose=False,
    )
    assert theirs["kernel_inception_distance_mean"] == pytest.approx(kid.mean, rel=1e-4)
    logits = ours[0][inception.LOGITS]
    assert theirs["inception_score_mean"] == pytest.approx(inception_score(logits, 2, 0).mean, rel=1e-5)
    assert (theirs["precision"], theirs["recall"]) == pytest.approx(precision_recall(x, y))

    numbers = torch.arange(2 * count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    alive = x.std(0).argsort(descending=True)[:64]  # most features of a random network are dead
    metrics = {
        "fid": FrechetInceptionDistance(feature=Looked(x[:, alive], y[:, alive])),
        "kid": KernelInceptionDistance(feature=Looked(x, y), subsets=1, subset_size=count),  # no choice of subsets
    }
    for metric in metrics.values():
        metric.update(numbers[:count], real=False)
        metric.update(numbers[count:], real=True)
    assert metrics["fid"].compute().item() == pytest.approx(frechet_distance(x[:, alive], y[:, alive]), rel=1e-3)
    whole = kernel_distance(x, y, subsets=1, subset_size=count, seed=0)
    assert metrics["kid"].compute()[0].item() == pytest.approx(whole.mean, rel=1e-2, abs=1e-6)
    score = InceptionScore(feature=Looked(logits), splits=1)
    score.update(numbers[:count])
    assert score.compute()[0].item() == pytest.approx(inception_score(logits, 1, 0).mean, rel=1e-5)


def test_statistics_as_adm_stores_them(weights):
    """Mean and covariance (N - 1, float64), compared by a matrix square root as in ADM's evaluator."""
    generator = np.random.default_rng(4)
    extractor = inception_extractor(weights)
    features = [
        extractor(generator.integers(0, level, (6, 16, 16, 3)).astype(np.uint8), 6, "cpu")[inception.LAYER]
        for level in (256, 180)
    ]
    alive = features[0].std(0).argsort(descending=True)[:4]
    features = [found[:, alive] / features[0][:, alive].std() for found in features]
    statistics = [fid_features_to_statistics(f.double()) for f in features]
    for found, f in zip(statistics, features, strict=True):
        x = f.numpy().astype(np.longdouble)
        centred = x - x.sum(0) / len(x)
        np.testing.assert_allclose(found["mu"], (x.sum(0) / len(x)).astype(float), rtol=1e-13)
        exact = np.einsum("ni,nj->ij", centred, centred) / (len(x) - 1)
        np.testing.assert_allclose(found["sigma"], exact.astype(float), rtol=1e-9, atol=1e-15 * float(exact.max()))
    (mu1, s1), (mu2, s2) = ((s["mu"], s["sigma"]) for s in statistics)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    adm = np.sum((mu1 - mu2) ** 2) + np.trace(s1) + np.trace(s2) - 2 * np.trace(root)
    assert frechet_distance(*features) == pytest.approx(adm, rel=1e-7)


class Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return torch.from_numpy(self.images[index]).permute(2, 0, 1)


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
