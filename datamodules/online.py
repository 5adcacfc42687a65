"""Images that are tokenised during training, from a new crop of every image in every epoch, as AiM's code does it.

It costs a forward pass of the tokenizer per step and the decoding of every image in every epoch; a store of ten crops
(`ablate tokenize --crops ten_1.1,ten_1.05`) costs neither.

Shapes: B batch, S pixels, L tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from datamodules.base import StreamDataModule
from datamodules.online_config import OnlineConfig
from datamodules.sources.folders import FileSource
from datamodules.subset import choose_subset
from datamodules.tokenize.crops import adm_crop
from datamodules.tokenize.images import applies_exif, decode_image
from lightning_modules.images import from_uint8
from lightning_modules.precision import exact_float32

DRAWS = 1 << 16
"""Different crops of an image: the sampler draws one per (seed, epoch, image), so that a resumed run sees the same."""


class OnlineDataset:
    """Batches {"image": (B, S, S, 3) uint8, "label": (B,) int64} of image files.

    Args:
        source: the files and their labels.
        index: (N,) the files that take part.
        size: S.
        resize: short side before the random crop; 0 = ADM's centre crop, always the same.
        flip: mirror a random half.
        exif: turn images as their EXIF orientations say.
    """

    in_processes = True

    def __init__(self, source: FileSource, index: np.ndarray, size: int, resize: int, flip: bool, exif: bool):
        self.source, self.index = source, index
        self.size, self.resize, self.flip, self.exif = size, resize, flip, exif
        self.views = DRAWS if resize else 1

    def __len__(self) -> int:
        return len(self.index) * self.views

    def __getitem__(self, rows: np.ndarray) -> dict[str, Any]:
        samples, draws = self.index[rows // self.views], rows % self.views
        images = [self._image(int(sample), int(draw)) for sample, draw in zip(samples, draws, strict=True)]
        labels = [int(self.source.labels[sample]) for sample in samples]
        return {"image": torch.from_numpy(np.stack(images)), "label": torch.tensor(labels)}

    def _image(self, sample: int, draw: int) -> np.ndarray:
        """(S, S, 3) uint8. Raises ValueError for a file that is no image: nothing else could stand in its place."""
        path = self.source.folder / self.source.files[sample]
        try:
            image, _ = decode_image(path.read_bytes(), path.name, self.exif)
        except (ValueError, OSError) as error:
            raise ValueError(f"{path}: {error}; remove it, or let `ablate tokenize` leave it out.") from error
        if not self.resize:
            return np.array(adm_crop(image, self.size))
        generator = np.random.default_rng([sample, draw])
        scale = self.resize / min(image.size)
        width, height = (max(self.resize, round(side * scale)) for side in image.size)
        left, top = (int(generator.integers(side - self.size + 1)) for side in (width, height))
        pixels = np.array(image.resize((width, height), Image.Resampling.LANCZOS))
        crop = pixels[top : top + self.size, left : left + self.size]
        return crop[:, ::-1].copy() if self.flip and generator.random() < 0.5 else crop


class OnlineDataModule(StreamDataModule):
    """Batches {"tokens": (B, L) int64 or "latents": (B, C, h, w) float32, "label": (B,) int64}, made on the device.

    Validation sees ADM's centre crop of the val split. Arguments are those of `StreamDataModule`.

    Raises:
        ValueError: no source named, or one that `OnlineConfig.open` refuses.
    """

    config: OnlineConfig

    def __init__(self, config: OnlineConfig, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        if not config.source:
            raise ValueError(f"The data set {config.name} needs data.source=FOLDER with images of train/ and val/.")

    def setup(self, stage: str | None = None) -> None:
        """List the files of both splits."""
        size, exif = self.config.image_size, applies_exif(self.config.kind)
        for split in ("train", "val"):
            source, train = self.config.open(split), split == "train"
            index = choose_subset(len(source.files), self.config.subset if train else 0)
            resize = (self.config.resize or round(size * 9 / 8)) if train else 0
            self._datasets[split] = OnlineDataset(source, index, size, resize, self.config.flip, exif)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Pixels to codes, in full precision: in less the nearest code is another one now and then."""
        images = batch.pop("image")
        if self.encoder is None:
            batch["image"] = from_uint8(images)
            return batch
        with torch.autocast(images.device.type, enabled=False), exact_float32(images.device):
            codes = self.encoder.encode(images).clone()  # out of inference mode: the loss keeps them for its gradient
        batch["tokens" if self.encoder.vocab_size else "latents"] = codes
        return batch

    @staticmethod
    def reference(config: OnlineConfig) -> Any:
        """Raises ValueError: what to measure against is named, not guessed."""
        raise ValueError(
            f"Name what samples of {config.name} are measured against with evaluation.reference=FILE, from `ablate "
            f"reference {config.kind} --source IMAGES --out FILE` or as published for ADM."
        )

    @staticmethod
    def prompts(config: OnlineConfig, split: str) -> tuple[list[str], np.ndarray]:
        """Raises ValueError: there are no captions."""
        raise ValueError(f"{config.name} has no captions; tokenize the images into stores to train on captions.")
