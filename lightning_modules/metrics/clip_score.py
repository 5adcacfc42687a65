"""CLIP score: how well an image goes with the caption it was asked for with (Hessel et al. 2021), from local weights.

100 cos(image, caption) in the joint space of CLIP, averaged over the images, as torchmetrics has it (without the
factor 2.5 and the clipping of single values of the original definition). Numbers compare only where the CLIP is the
same, so its fingerprint stands in the protocol.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lightning_modules.metrics.local_model import LocalModel


class CLIPScore(LocalModel):
    """A CLIP in a local folder. Args and errors: see `LocalModel`."""

    name, key, model_type, model_class = "clip_score", "clip_weights", ("clip",), "CLIPModel"

    @property
    def protocol(self) -> dict[str, Any]:
        """What the score was taken with."""
        return {"fingerprint": self.fingerprint, "width": self.model.config.projection_dim}

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, captions: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Score of every image, (N,) float64 in [-100, 100]; captions are cut to what CLIP reads (77 tokens).

        Args:
            images: (N, H, W, 3) uint8.
            captions: N strings.
        """
        if len(images) != len(captions):
            raise ValueError(f"There are {len(images)} images but {len(captions)} captions.")
        parts = []
        for start in range(0, len(images), batch_size):
            end = start + batch_size
            output = self.model(**self._inputs(images[start:end], captions[start:end]))
            parts.append((100 * (output.image_embeds * output.text_embeds).sum(-1)).double().cpu())
        return torch.cat(parts).numpy()

    def _inputs(self, images: np.ndarray, captions: Sequence[str]) -> dict[str, Any]:
        longest = self.model.config.text_config.max_position_embeddings
        text = self.tokenizer(list(captions), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        return {
            "input_ids": text["input_ids"].to(self.device),
            "attention_mask": text["attention_mask"].to(self.device),
            "pixel_values": self.pixels(images),
        }
