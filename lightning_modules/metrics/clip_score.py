"""CLIP score: how well an image goes with the caption it was asked for with (Hessel et al. 2021), from local weights.

100 cos(image, caption) in the joint space of CLIP, averaged over the images, as torchmetrics has it (without the
factor 2.5 and the clipping of single values of the original definition). Numbers compare only where the CLIP is the
same, so its fingerprint stands in the protocol. Nothing is ever downloaded.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from lightning_modules.metrics.bootstrap import intervals, mean_deviations, resamples
from lightning_modules.metrics.config import MetricsConfig
from lightning_modules.metrics.evaluate import DIGITS, Measurement
from lightning_modules.text_encoders.checkpoint import weights_fingerprint
from lightning_modules.text_encoders.library import import_transformers

NAME = "clip_score"


class CLIPScore:
    """A CLIP with its image processor and tokenizer.

    Args:
        folder: as transformers writes it: config.json, weights, preprocessor_config.json and the tokenizer's files.
        device: where it runs.

    Raises:
        FileNotFoundError: no such folder, or no weights or tokenizer in it.
        ValueError: it is not a CLIP, or transformers is not installed.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        if not folder.is_dir():
            raise FileNotFoundError(f"evaluation.clip_weights={folder} is not a folder; name that of a CLIP.")
        self.fingerprint = weights_fingerprint(folder)
        self.device = torch.device(device)
        transformers = import_transformers("The CLIP score (evaluation.clip_weights)")
        try:
            self.model = transformers.CLIPModel.from_pretrained(folder, local_files_only=True)
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            first = " ".join(str(error).split())[:300]
            raise ValueError(f"evaluation.clip_weights={folder} does not hold a CLIP: {first}") from error
        self.model = self.model.to(self.device).eval().requires_grad_(False)

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
        pixels = self.processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
        return {
            "input_ids": text["input_ids"].to(self.device),
            "attention_mask": text["attention_mask"].to(self.device),
            "pixel_values": pixels["pixel_values"].to(self.device),
        }


def with_clip_score(
    measured: Measurement, images: np.ndarray, captions: Sequence[str], config: MetricsConfig
) -> Measurement:
    """A measurement with the CLIP score beside it, where there are captions and `config.clip_weights` names a CLIP."""
    if not captions or not config.clip_weights:
        return measured
    clip = CLIPScore(Path(config.clip_weights), config.device)
    values = clip(images, captions, config.batch_size)
    metrics, replicates = {NAME: float(values.mean())}, {}
    if config.bootstrap:
        replicates[NAME] = mean_deviations(values, resamples(len(values), config.bootstrap, config.seed))
    protocol = {
        **measured.protocol,
        "clip": {"fingerprint": clip.fingerprint, "width": clip.model.config.projection_dim},
    }
    short = {name: [float(f"{value:.{DIGITS}g}") for value in values] for name, values in replicates.items()}
    return Measurement(
        {**measured.metrics, **metrics, **intervals(metrics, replicates)},
        protocol,
        {**measured.replicates, **short},
    )
