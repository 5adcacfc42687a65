"""Distances between feature distributions, precision and recall, Inception score.

The arithmetic is torch-fidelity's, but for Fréchet distances of fewer images than features.

Shapes: N, M numbers of images, D features, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

NEIGHBOURS = 3
WHOLE = 10_000
"""Up to so many images a matrix of all distances is held in memory; beyond, it is made in blocks."""
BLOCK = 5_000


class Estimate(NamedTuple):
    """Mean and standard deviation over subsets or splits."""

    mean: float
    std: float


def frechet_distance(left: Tensor, right: Tensor) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel et al. 2017, eq. 6), in float64.

    Where one side has fewer images than features, the last term comes from the N x M side: with S1 = A^T A and
    S2 = B^T B, tr (S1 S2)^(1/2) is the sum of the singular values of A B^T. That is exact, ten times as fast, and free
    of the rounding that the roots of D - N eigenvalues of zero bring in.

    Args:
        left, right: (N, D) and (M, D), with N, M >= 2.
    """
    if min(len(left), len(right)) < left.shape[1]:
        return _frechet_of_few(left.double(), right.double())
    statistics = [fid_features_to_statistics(features.double()) for features in (left, right)]
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def _frechet_of_few(x: Tensor, y: Tensor) -> float:
    a, b = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    root = torch.linalg.svdvals(a @ b.T).sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * root)


def kernel_distance(left: Tensor, right: Tensor, subsets: int, subset_size: int, seed: int) -> Estimate:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018) over random subsets, in float64.

    Slightly negative values are valid: the distributions are then hardly distinguishable.

    Args:
        left, right: (N, D) and (M, D), with N, M >= subset_size.
    """
    result = kid_features_to_metric(
        left.double(), right.double(), kid_subsets=subsets, kid_subset_size=subset_size, rng_seed=seed, verbose=False
    )
    return Estimate(result[KEY_METRIC_KID_MEAN], result[KEY_METRIC_KID_STD])


def precision_recall(left: Tensor, right: Tensor) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) with the third nearest neighbour, in float64.

    Precision is the share of `left` inside the manifold of `right`, recall the share of `right` inside that of `left`;
    a manifold is the union of balls around its points, each reaching to the third neighbour. Both depend on N and M.

    Args:
        left, right: samples (N, D) and real images (M, D), with N, M > 3.
    """
    result = prc_features_to_metric(
        left.double(),
        right.double(),
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=BLOCK,
        save_cpu_ram=max(len(left), len(right)) > WHOLE,
        verbose=False,
    )
    return result[KEY_METRIC_PRECISION], result[KEY_METRIC_RECALL]


def inception_score(logits: Tensor, splits: int, seed: int) -> Estimate:
    """exp E_x KL(p(y|x) || p(y)) (Salimans et al. 2016) over splits of the shuffled images.

    Args:
        logits: (N, C), with N >= splits.
    """
    result = isc_features_to_metric(logits, splits=splits, shuffle=True, rng_seed=seed)
    return Estimate(result[KEY_METRIC_ISC_MEAN], result[KEY_METRIC_ISC_STD])
