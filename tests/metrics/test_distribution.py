"""FD, KID and IS against independent float64 computations, and through torch-fidelity's own front door."""

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity

from lightning_modules.metrics import efficientnet
from lightning_modules.metrics.distribution import (
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from lightning_modules.metrics.features import efficientnet_extractor


def features(count: int, width: int, seed: int) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width)) / np.sqrt(width)
    return torch.from_numpy((generator.normal(size=(count, width)) @ mixing + 0.3 * seed).astype(np.float32))


def test_frechet_distance_by_matrix_square_root():
    left, right = features(200, 24, 0), features(300, 24, 1)
    x, y = left.double().numpy(), right.double().numpy()
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(s1 + s2 - 2 * root)
    assert frechet_distance(left, right) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_with_fewer_images_than_features():
    """Covariances are singular; tr (S1 S2)^(1/2) is then the nuclear norm of the N x M matrix of inner products."""
    left, right = features(40, 160, 0), features(70, 160, 1)
    x, y = left.double().numpy(), right.double().numpy()
    a, b = (x - x.mean(0)) / np.sqrt(len(x) - 1), (y - y.mean(0)) / np.sqrt(len(y) - 1)
    root = np.linalg.norm(a @ b.T, "nuc")
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * root
    assert frechet_distance(left, right) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(left, left) == pytest.approx(0, abs=1e-4)


def test_kernel_distance_by_double_sum():
    left, right = features(30, 16, 0), features(30, 16, 1)
    x, y = left.double().numpy(), right.double().numpy()

    def kernel(u, v):
        return (np.dot(u, v) / 16 + 1) ** 3

    n = len(x)
    within = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    across = np.mean([[kernel(u, v) for v in y] for u in x])
    result = kernel_distance(left, right, subsets=3, subset_size=n, seed=0)  # every subset is the whole set
    assert result.mean == pytest.approx(within - 2 * across, rel=1e-9)
    assert result.std == pytest.approx(0, abs=1e-9)


def test_kernel_distance_depends_on_the_seed_alone():
    left, right = features(80, 16, 0), features(90, 16, 1)
    a, b, c = (kernel_distance(left, right, 10, 40, seed) for seed in (0, 0, 1))
    assert a == b != c and a.std > 0


def test_precision_and_recall_by_definition():
    left, right = features(40, 8, 0), features(60, 8, 1)
    x, y = left.double().numpy(), right.double().numpy()

    def inside(points, manifold):
        """Share of points within the third-neighbour ball of some point of the manifold."""
        found = 0
        for p in points:
            radii = [np.sort(np.linalg.norm(manifold - m, axis=1))[3] for m in manifold]
            found += any(np.linalg.norm(p - m) <= r for m, r in zip(manifold, radii, strict=True))
        return found / len(points)

    assert precision_recall(left, right) == pytest.approx((inside(x, y), inside(y, x)))
    assert precision_recall(left, left) == (1, 1)


def test_inception_score_by_definition():
    logits = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * 2
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    expected = np.exp(np.mean(np.sum(p * np.log(p / p.mean(0)), axis=1)))
    assert inception_score(logits, splits=1, seed=0).mean == pytest.approx(expected, rel=1e-9)
    assert inception_score(torch.zeros(20, 5), splits=2, seed=0) == pytest.approx((1, 0))
    halves = torch.from_numpy(np.random.RandomState(3).permutation(50)).split(25)  # in no order that images come in
    expected = [inception_score(logits[half], splits=1, seed=0).mean for half in halves]
    assert inception_score(logits, splits=2, seed=3) == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-9)


def test_torch_fidelity_knows_the_extractor():
    """`torch_fidelity.calculate_metrics` with our extractor by name gives the values that we compute from features."""
    generator = np.random.default_rng(0)
    left, right = (generator.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8) for _ in range(2))
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(left),
        input2=Images(right),
        feature_extractor=efficientnet.NAME,
        fid=True,
        kid=True,
        kid_subsets=5,
        kid_subset_size=10,
        rng_seed=3,
        cuda=False,
        cache=False,
        save_cpu_ram=True,  # no processes that load
        verbose=False,
    )
    extractor = efficientnet_extractor()
    ours = [extractor(images, 64, "cpu")[efficientnet.LAYER] for images in (left, right)]
    assert theirs["frechet_inception_distance"] == pytest.approx(frechet_distance(*ours), rel=1e-3)
    kid = kernel_distance(*ours, subsets=5, subset_size=10, seed=3)
    assert theirs["kernel_inception_distance_mean"] == pytest.approx(kid.mean, rel=1e-3)
    assert theirs["kernel_inception_distance_std"] == pytest.approx(kid.std, rel=1e-2)


class Images(torch.utils.data.Dataset):
    def __init__(self, images: np.ndarray):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.images[index]).permute(2, 0, 1)
