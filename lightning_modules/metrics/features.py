"""Features of image sets, extracted once per content.

Shapes: B batch, N images, H x W pixels, D features.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_modules.files import atomic_path
from lightning_modules.hashing import file_sha256
from lightning_modules.metrics import dinov2, efficientnet, inception
from lightning_modules.metrics.reference import array_sha256
from lightning_modules.precision import exact_float32


@dataclass(frozen=True)
class Extractor:
    """A frozen network with what identifies its features.

    Attributes:
        name: as torch-fidelity calls it.
        network: (B, 3, H, W) uint8 -> a tuple of features, in the order of `network.features_list`.
        sha256: of its weight file.
        resize: preprocessing, in words.
    """

    name: str
    network: efficientnet.EfficientNetLite0Extractor | inception.Inception | dinov2.DINOv2
    sha256: str
    resize: str

    @property
    def fingerprint(self) -> str:
        """Identifies the features of an image: weights, preprocessing, layers."""
        return hashlib.sha256(f"{self.sha256} {self.resize} {self.network.features_list}".encode()).hexdigest()

    def __call__(self, images: np.ndarray, batch_size: int, device: str) -> dict[str, Tensor]:
        """(N, H, W, 3) uint8 -> {layer: (N, D) float32 on the CPU}, computed in float32 wherever."""
        network = self.network.to(device)
        parts = []
        with torch.inference_mode(), exact_float32(torch.device(device)):
            for start in range(0, len(images), batch_size):
                batch = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size]))
                parts.append([f.float().cpu() for f in network(batch.to(device).permute(0, 3, 1, 2))])
        return dict(zip(network.features_list, map(torch.cat, zip(*parts, strict=True)), strict=True))

    def cached(self, images: np.ndarray, batch_size: int, device: str, cache_dir: Path | None) -> dict[str, Tensor]:
        """The same, kept in `cache_dir`/features under a hash of extractor and images. A damaged entry is replaced."""
        if cache_dir is None:
            return self(images, batch_size, device)
        key = hashlib.sha256(f"{self.fingerprint} {array_sha256(images)}".encode()).hexdigest()[:32]
        path = cache_dir / "features" / f"{self.name}-{key}.npz"
        try:
            with np.load(path) as file:
                return {layer: torch.from_numpy(file[layer]) for layer in self.network.features_list}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            features = self(images, batch_size, device)
            _save(path, {layer: value.numpy() for layer, value in features.items()})
            return features


@lru_cache(maxsize=1)
def efficientnet_extractor() -> Extractor:
    """EfficientNet-Lite0 with its packaged ImageNet weights."""
    network = efficientnet.EfficientNetLite0Extractor(efficientnet.NAME, [efficientnet.LAYER])
    return Extractor(efficientnet.NAME, network, file_sha256(Path(efficientnet.weight_file())), efficientnet.RESIZE)


def inception_extractor(path: Path) -> Extractor:
    """Inception-v3 with weights from a file. Raises FileNotFoundError or ValueError as `load_inception` does."""
    sha256 = file_sha256(path) if path.is_file() else ""
    return Extractor(inception.NAME, inception.load_inception(path, sha256), sha256, inception.RESIZE)


def dinov2_extractor(path: Path) -> Extractor:
    """DINOv2 with weights from a file. Raises FileNotFoundError or ValueError as `load_dinov2` does."""
    network = dinov2.load_dinov2(path)
    width = network.pos_embed.shape[-1]
    name = dinov2.NAMES.get(width, f"dinov2-vit-{width}-14")
    return Extractor(name, network, file_sha256(path), dinov2.RESIZE)


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        # numpy's stub takes ** for its option allow_pickle, a bool
        np.savez(stream, **arrays)  # type: ignore[arg-type]
