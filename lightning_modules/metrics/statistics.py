"""Reference statistics in a file: mean and covariance of features of real images, perhaps some of the images too.

The file is an npz of ADM's layout (VIRTUAL_imagenet256_labeled.npz of guided-diffusion), readable by its evaluator:

    mu, sigma       (2048,), (2048, 2048) float64, pooled Inception-v3 features
    mu_s, sigma_s   (2023,), (2023, 2023) float64, spatial ones, for sFID
    arr_0           (K, H, W, 3) uint8, images, for what needs more than two moments (KID, precision, recall)
    mu_efflite0, sigma_efflite0, meta   added here: EfficientNet-Lite0 features; what the numbers are of, as JSON
    labels          (K,) int32, added here where the data have classes, whose names are in `meta`: those of arr_0

Shapes: B images of a batch, M images in all, K images kept, D features.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.files import atomic_path
from lightning_modules.hashing import file_sha256
from lightning_modules.metrics import efficientnet, inception
from lightning_modules.metrics.features import Extractor
from lightning_modules.metrics.reference_file import UNREADABLE, damaged

SUFFIX = {inception.LAYER: "", inception.SPATIAL: "_s", efficientnet.LAYER: "_efflite0"}
"""Layer of features -> ending of the names of its arrays."""
WIDTH = {inception.LAYER: 2048, inception.SPATIAL: 2023, efficientnet.LAYER: 1280}
SCHEMA = 1


@dataclass(frozen=True)
class ReferenceStatistics:
    """Attributes:
    name: for the protocol, such as "imagenet/val, adm crop, 256 pixels".
    count: M, 0 where the file does not say.
    moments: layer -> mean (D,) and covariance (D, D), float64.
    images: (K, H, W, 3) uint8, or None.
    image_size: side of the images in pixels, 0 where the file does not say.
    extractors: layer -> fingerprint of the extractor, where the file says.
    fingerprint: sha256 of the file.
    labels: (K,) int32, the classes of `images`, or None.
    classes: their names in label order; empty where there are none.
    """

    name: str
    count: int
    moments: dict[str, tuple[np.ndarray, np.ndarray]]
    images: np.ndarray | None = None
    image_size: int = 0
    extractors: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    @property
    def kept(self) -> int:
        """K."""
        return 0 if self.images is None else len(self.images)

    @property
    def description(self) -> str:
        """For the protocol."""
        of = f" of {self.count:,} images" if self.count else ""
        return f"{self.name} (statistics{of}, {self.kept:,} images kept)"

    def stand_in(self, layer: str) -> Tensor:
        """(2 D, D) float64 with exactly this mean and covariance, to stand in for features where there are none.

        Along every axis v of the covariance, with variance s, the points mu +- v (s (2 D - 1) / 2)^(1/2).
        """
        mean, covariance = self.moments[layer]
        values, vectors = np.linalg.eigh(covariance)
        steps = (vectors * np.sqrt(values.clip(min=0) * (2 * len(mean) - 1) / 2)).T
        return torch.from_numpy(np.concatenate([mean + steps, mean - steps]))


class Moments:
    """Running mean and covariance of the features of one layer, in float64."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, features: Tensor) -> None:
        """features: (B, D)."""
        x = features.double()
        if not self.count:
            self.origin = x.mean(0)  # sums of differences from here stay small, whatever the mean
            self.total, self.products = torch.zeros_like(self.origin), x.new_zeros(x.shape[1], x.shape[1])
        x = x - self.origin
        self.count += len(x)
        self.total += x.sum(0)
        self.products += x.T @ x

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (D,) and covariance (D, D), normalised by M - 1."""
        mean = self.total / self.count
        covariance = (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return (self.origin + mean).numpy(), covariance.numpy()


def collect_statistics(
    name: str,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    extractors: Iterable[Extractor],
    keep: int,
    batch_size: int,
    device: str,
    classes: Sequence[str] = (),
) -> ReferenceStatistics:
    """Statistics of all images; a random `keep` of them are kept, with their labels where there are classes.

    Args:
        batches: images (B, H, W, 3) uint8 and labels (B,) each.
        classes: names in label order; empty where labels mean nothing.

    Raises:
        ValueError: fewer than 2 images.
    """
    extractors, moments, count = list(extractors), dict[str, Moments](), 0
    kept: list[np.ndarray] = []
    kept_labels: list[int] = []
    chance = np.random.default_rng(0)
    for images, labels in batches:
        for extractor in extractors:
            for layer, features in extractor(images, batch_size, device).items():
                if layer in SUFFIX:
                    moments.setdefault(layer, Moments()).add(features)
        for image, label in zip(images, labels, strict=True):
            # reservoir sampling: each image so far is kept with the same probability
            place = count if count < keep else int(chance.integers(count + 1))
            if place < keep:
                kept[place : place + 1] = [image.copy()]  # a view would keep its whole batch
                kept_labels[place : place + 1] = [int(label)]
            count += 1
    if count < 2:
        raise ValueError(f"{name}: {count} usable images are too few for statistics.")
    fingerprints = {
        layer: extractor.fingerprint for extractor in extractors for layer in extractor.network.features_list
    }
    return ReferenceStatistics(
        name,
        count,
        {layer: value.result() for layer, value in moments.items()},
        np.stack(kept) if kept else None,
        images.shape[1],
        {layer: fingerprint for layer, fingerprint in fingerprints.items() if layer in SUFFIX},
        labels=np.array(kept_labels, np.int32) if kept and classes else None,
        classes=tuple(classes),
    )


def write_statistics(path: Path, statistics: ReferenceStatistics) -> None:
    """Write the file, atomically."""
    meta: dict[str, Any] = {
        "schema": SCHEMA,
        "name": statistics.name,
        "count": statistics.count,
        "image_size": statistics.image_size,
        "extractors": statistics.extractors,
    }
    if statistics.classes:
        meta["classes"] = statistics.classes
    arrays: dict[str, Any] = {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)}
    for layer, (mean, covariance) in statistics.moments.items():
        arrays |= {f"mu{SUFFIX[layer]}": mean, f"sigma{SUFFIX[layer]}": covariance}
    if statistics.images is not None:
        arrays["arr_0"] = statistics.images
    if statistics.labels is not None:
        arrays["labels"] = statistics.labels
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)


def read_statistics(path: Path) -> ReferenceStatistics:
    """Read a file of `ablate reference`, or one as published for ADM.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Reference statistics {path} not found; `ablate reference` makes them.")
    try:
        if not zipfile.is_zipfile(path):  # of which numpy says that it could be loaded unsafely
            raise ValueError("no zip archive")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except UNREADABLE as error:
        raise damaged(path, error) from error
    moments = {}
    for layer, suffix in SUFFIX.items():
        if f"mu{suffix}" in arrays and f"sigma{suffix}" in arrays:
            mean, covariance = (arrays[f"{kind}{suffix}"].astype(np.float64) for kind in ("mu", "sigma"))
            if mean.shape != (WIDTH[layer],) or covariance.shape != (WIDTH[layer], WIDTH[layer]):
                raise ValueError(
                    f"{path} has mu{suffix} {mean.shape} and sigma{suffix} {covariance.shape}; features of width "
                    f"{WIDTH[layer]} were expected."
                )
            moments[layer] = (mean, covariance)
    images = arrays.get("arr_0")
    if images is not None and (images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3):
        raise ValueError(f"{path} has arr_0 {images.dtype} {images.shape}; uint8 images (K, H, W, 3) were expected.")
    if not moments and images is None:
        raise ValueError(
            f"{path} holds neither mu and sigma nor images arr_0; it has {', '.join(arrays) or 'nothing'}."
        )
    meta = json.loads(arrays["meta"].tobytes()) if "meta" in arrays else {}
    size = int(meta.get("image_size", 0)) or (0 if images is None else images.shape[1])
    classes = tuple(map(str, meta.get("classes", ())))
    return ReferenceStatistics(
        str(meta.get("name", path.name)),
        int(meta.get("count", 0)),
        moments,
        images,
        size,
        dict(meta.get("extractors", {})),
        file_sha256(path),
        _labels(path, arrays, classes),
        classes,
    )


def _labels(path: Path, arrays: Mapping[str, np.ndarray], classes: Sequence[str]) -> np.ndarray | None:
    """(K,) int32; None where no images are kept, or no classes are named, without which labels mean nothing."""
    if not classes or "labels" not in arrays or "arr_0" not in arrays:
        return None
    labels, count = arrays["labels"], len(arrays["arr_0"])
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or not np.isin(labels, range(len(classes))).all():
        raise ValueError(
            f"{path} has labels {labels.dtype} {labels.shape}; whole numbers from 0 to {len(classes) - 1}, one for "
            f"each of its {count} images, were expected."
        )
    return labels
