"""Spatial relations: does the one thing stand where the caption puts it beside the other?

The rule is that of T2I-CompBench (arXiv 2307.06350, section 4.2): half for the relation of the two boxes, a quarter of
each detection's confidence, nothing below 0.5 in sum. Its detector, UniDet, is in no library; here an open-vocabulary
detector (OWL-ViT, OWLv2) looks for the caption's words. Numbers therefore do not compare with published ones, and the
protocol names the detector.

Shapes: N images, H x W pixels, B batch, P boxes, Q = 2 things.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.metrics.local_model import LocalModel
from lightning_modules.metrics.phrases import Relation, relation

LEAST_CONFIDENCE = 0.1
"""Of a box that counts as found: the threshold of OWL-ViT's examples."""
MOST_OVERLAP = 0.1
"""Intersection over union beyond which a relation counts less."""
NEAR = 150 / 512
"""Distance of centres, as a share of the image's side; 150 pixels of 512 in the published code."""
LEAST_SCORE = 0.5


class SpatialRelations(LocalModel):
    """An OWL-ViT or OWLv2 in a local folder. Args and errors: see `LocalModel`."""

    name, key, model_type = "spatial_relations", "detector_weights", ("owlvit", "owlv2")
    model_class = "AutoModelForZeroShotObjectDetection"

    @property
    def protocol(self) -> dict[str, Any]:
        """What the score was taken with."""
        return {"fingerprint": self.fingerprint, "detector": self.model.config.model_type, "rule": "T2I-CompBench's"}

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, captions: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Score of every image, (N,) float64 in [0, 1]; NaN where the caption names no relation.

        Args:
            images: (N, H, W, 3) uint8, square.
            captions: N strings.
        """
        wanted = [(i, found) for i, caption in enumerate(captions) if (found := relation(caption))]
        scores = np.full(len(images), np.nan)
        for start in range(0, len(wanted), batch_size):
            rows, relations = zip(*wanted[start : start + batch_size], strict=True)
            confidence, boxes = self._detect(images[list(rows)], relations)
            for i, asked, found, box in zip(rows, relations, confidence.tolist(), boxes.tolist(), strict=True):
                scores[i] = score(asked.where, (found[0], found[1]), (box[0], box[1]))
        return scores

    def _detect(self, images: np.ndarray, relations: Sequence[Relation]) -> tuple[Tensor, Tensor]:
        """Best box of each thing: confidences (B, Q) and boxes (B, Q, 4), centre and size as shares of the side."""
        queries = [f"a photo of {thing}" for found in relations for thing in (found.first, found.second)]
        longest = self.model.config.text_config.max_position_embeddings
        text = self.tokenizer(queries, padding="max_length", truncation=True, max_length=longest, return_tensors="pt")
        output = self.model(
            input_ids=text["input_ids"].to(self.device),
            attention_mask=text["attention_mask"].to(self.device),
            pixel_values=self.pixels(images),
        )
        confidence, best = output.logits.sigmoid().max(dim=1)  # (B, P, Q) -> (B, Q)
        return confidence, output.pred_boxes.gather(1, best[..., None].expand(-1, -1, 4))


Box = Sequence[float]
"""Centre x, centre y, width, height; y grows downwards."""


def score(where: str, confidences: tuple[float, float], boxes: tuple[Box, Box]) -> float:
    """Of one image, from the best detections of both things."""
    found = [value >= LEAST_CONFIDENCE for value in confidences]
    total = 0.25 * sum(value for value, is_found in zip(confidences, found, strict=True) if is_found)
    if all(found):
        total += 0.5 * position(where, *boxes)
    return total if total >= LEAST_SCORE else 0.0


def position(where: str, first: Box, second: Box) -> float:
    """How well `first` stands `where` of `second`, in [0, 1]."""
    across, down = second[0] - first[0], second[1] - first[1]
    if where == "near":
        far = max(abs(across), abs(down))
        return 1.0 if min(abs(across), abs(down)) < NEAR else NEAR / far
    directions = {"left": (across, down), "right": (-across, down), "above": (down, across), "below": (-down, across)}
    along, other = directions[where]
    if along <= abs(other):
        return 0.0
    return min(1.0, MOST_OVERLAP / max(_overlap(first, second), 1e-9))


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    sides = [
        max(0.0, min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2))
        for i in (0, 1)
    ]
    shared = sides[0] * sides[1]
    return shared / max(a[2] * a[3] + b[2] * b[3] - shared, 1e-12)
