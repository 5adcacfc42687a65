"""The linear probe: a true minimum, labels of any kind, and what it refuses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightning_modules.metrics.probe import fit_probe


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three overlapping clouds with labels 2, 5 and 7, one feature constant and one of another scale."""
    generator = np.random.default_rng(seed)
    labels = np.array([2, 5, 7])[np.arange(count) % 3]
    features = generator.normal(size=(count, 6)) + 1.5 * np.eye(6)[np.arange(count) % 3]
    features[:, 4] *= 1000
    features[:, 5] = 3
    return features.astype(np.float32), labels


def test_it_generalises_and_keeps_the_labels() -> None:
    probe = fit_probe(*blobs(300, 0))
    features, labels = blobs(300, 1)
    assert probe.classes.tolist() == [2, 5, 7] and 0.6 < probe.hits(features, labels).mean() < 0.95
    assert probe.hits(features, np.roll(labels, 1)).mean() < 0.3


def test_it_is_the_minimum_that_pytorch_finds() -> None:
    features, labels = blobs(90, 2)
    x = torch.from_numpy(features).double()
    x = (x - x.mean(0)) / (x.std(0, unbiased=False) + 1e-6)
    target = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    weight, bias = torch.zeros(6, 3, dtype=torch.double), torch.zeros(3, dtype=torch.double)
    optimiser = torch.optim.LBFGS([weight.requires_grad_(), bias.requires_grad_()], max_iter=500, tolerance_grad=1e-12)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(x @ weight + bias, target) + 0.5 / 2 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    probe = fit_probe(features, labels, penalty=0.5)
    ours = torch.from_numpy(features.astype(np.float64) @ probe.weight + probe.bias)
    theirs = (x @ weight + bias).detach()
    torch.testing.assert_close(ours.softmax(1), theirs.softmax(1), atol=1e-3, rtol=0)


def test_one_class_is_no_probe() -> None:
    with pytest.raises(ValueError, match="two classes at least"):
        fit_probe(np.zeros((4, 2)), np.zeros(4, int))
