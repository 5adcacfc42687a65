"""Which samples lie inside the manifold of real images, and what each sample does for the recall of the others.

Improved precision and recall (Kynkäänniemi et al. 2019): a manifold is the union of balls around its points, each
reaching to its third neighbour. The shares themselves are torch-fidelity's (`lightning_modules.metrics.distribution`);
here is what their bootstrap needs. Distances in float64, in blocks.

Shapes: N samples, M real images, D features, B of a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lightning_modules.metrics.distribution import NEIGHBOURS

BLOCK = 2_000


def inside(samples: Tensor, real: Tensor) -> np.ndarray:
    """(N, D), (M, D) -> (N,) bool: samples inside the manifold of real images. Their share is the precision."""
    radius = _neighbours(real, NEIGHBOURS)[0][:, -1]
    return np.concatenate([(distance <= radius).any(1).numpy() for distance in _blocks(samples, real)])


def recall_influence(samples: Tensor, real: Tensor) -> np.ndarray:
    """(N,): by how much each sample moves the recall, times N, less its mean: its jackknife influence.

    Without a sample its ball is gone, and the balls of which it is one of the three nearest points reach to their
    fourth. Only real images in one ball at most can be won or lost by that.

    Args:
        samples, real: (N, D) and (M, D), with N > 4.
    """
    distances, nearest = _neighbours(samples, NEIGHBOURS + 1)
    radius, beyond = distances[:, NEIGHBOURS - 1], distances[:, NEIGHBOURS]
    near = nearest[:, :NEIGHBOURS].numpy()
    change = np.zeros(len(samples))  # of the number of real images covered, if this sample were not there
    for distance in _blocks(real, samples):
        covered, grown = distance <= radius, distance <= beyond
        count = covered.sum(1)
        for row in torch.where(count <= 1)[0].tolist():
            won = np.unique(near[(grown[row] & ~covered[row]).numpy()])
            if count[row] == 0:
                change[won] += 1
            elif (owner := int(covered[row].nonzero())) not in won:
                change[owner] -= 1
    influence = -(len(samples) - 1) * change / len(real)
    return influence - influence.mean()


def _neighbours(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances (N, count) to the nearest other points, ascending, and which these are."""
    parts = []
    for number, distance in enumerate(_blocks(points, points)):
        here = torch.arange(len(distance))
        distance[here, here + number * BLOCK] = -1.0  # itself comes first, also where another is equal to it
        parts.append(distance.topk(count + 1, largest=False, sorted=True))
    return torch.cat([part.values[:, 1:] for part in parts]), torch.cat([part.indices[:, 1:] for part in parts])


def _blocks(left: Tensor, right: Tensor) -> Iterator[Tensor]:
    """(B, len(right)) distances, block by block of the left-hand points."""
    right = right.double()
    return (torch.cdist(block, right) for block in left.double().split(BLOCK))
