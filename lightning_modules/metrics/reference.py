"""The real images that samples are measured against. Needs numpy only.

Shapes: M, K, T, V numbers of images, H x W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ReferenceSet:
    """Four sets of real images.

    A distance between samples and `images` means little by itself: it has a floor that depends on the number of
    samples. The floor is measured by putting N images of `real`, with the labels of the samples, in the place of the
    samples, so both numbers share the reference set, N and labels. It is what a generator of new images can reach at
    best; one that copies its training images, of which the reference is a part, may come out below, and shows in the
    memorisation rate.

    Attributes:
        name: for the protocol, such as "emoji/train".
        images: (M, H, W, 3) uint8, what samples are compared with.
        real, real_labels: (K, H, W, 3) uint8 and (K,), of the same distribution as `images`, but other concepts.
        train: (T, H, W, 3) uint8, everything the generator was trained on, for memorisation.
        heldout: (V, H, W, 3) uint8, images it was not trained on, which calibrate memorisation.
        labels: (M,), the classes of `images`; None, or one class alone, means that there is no class accuracy.
    """

    name: str
    images: np.ndarray
    real: np.ndarray
    real_labels: np.ndarray
    train: np.ndarray
    heldout: np.ndarray
    labels: np.ndarray | None = None

    @property
    def description(self) -> str:
        """For the protocol."""
        return f"{self.name} ({len(self.images)} images)"

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of `images`."""
        return array_sha256(self.images)

    def draw_real(self, labels: np.ndarray, seed: int) -> np.ndarray | None:
        """(N, H, W, 3): different real images with these labels, or None where there are too few of some label.

        Args:
            labels: (N,) integers.
        """
        generator = np.random.default_rng(seed)
        index = np.empty(len(labels), dtype=np.int64)
        for label in np.unique(labels):
            wanted = np.flatnonzero(labels == label)
            available = np.flatnonzero(self.real_labels == label)
            if len(available) < len(wanted):
                return None
            index[wanted] = generator.permutation(available)[: len(wanted)]
        return self.real[index]


def split_reference(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    train: np.ndarray,
    heldout: np.ndarray,
) -> ReferenceSet:
    """Cut real images into the reference proper and the images its floor is drawn from: two fixed halves of each class.

    Args:
        images, labels: (N, H, W, 3) uint8 and (N,).
        groups: N names; images of one group (styles, variants of one concept) stay in one half.
        train, heldout: as in `ReferenceSet`.
    """
    names, first_of_group = np.unique(np.array(groups), return_index=True)
    shuffled = np.random.default_rng(0).permutation(len(names))
    by_class = shuffled[np.argsort(labels[first_of_group[shuffled]], kind="stable")]
    first = np.isin(np.array(groups), names[by_class[::2]])
    return ReferenceSet(name, images[first], images[~first], labels[~first], train, heldout, labels[first])


def array_sha256(array: np.ndarray) -> str:
    """Hex sha256 of an array's type, shape and content."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
