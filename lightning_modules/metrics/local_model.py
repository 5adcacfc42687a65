"""A published model of images and text in a local folder, as transformers writes it. Nothing is ever downloaded.

Shapes: B images, H x W pixels, S x S pixels that the model takes.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from lightning_modules.text_encoders.checkpoint import weights_fingerprint
from lightning_modules.text_encoders.library import check_whole, import_transformers


class LocalModel(ABC):
    """Model, image processor and tokenizer of one folder.

    Args:
        folder: config.json, weights, preprocessor_config.json and the tokenizer's files.
        device: where it runs.

    Raises:
        FileNotFoundError: no such folder, or no weights or tokenizer in it.
        ValueError: it holds a model of another kind, or a part of one, or transformers is not installed.
    """

    name: ClassVar[str]
    """Of the metric."""
    key: ClassVar[str]
    """Of the section `evaluation` that names the folder."""
    model_type: ClassVar[tuple[str, ...]]
    """What config.json may say."""
    model_class: ClassVar[str]
    """In transformers."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        if not folder.is_dir():
            raise FileNotFoundError(f"evaluation.{self.key}={folder} is not a folder; name that of a model.")
        self.fingerprint = weights_fingerprint(folder)
        self.device = torch.device(device)
        kind = _kind(folder)
        if kind not in self.model_type:
            wanted = " or ".join(self.model_type)
            raise ValueError(f"evaluation.{self.key}={folder} holds a {kind}; it must be {wanted}.")
        transformers = import_transformers(f"evaluation.{self.key}")
        try:
            model, info = getattr(transformers, self.model_class).from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            first = " ".join(str(error).split())[:300]
            raise ValueError(f"evaluation.{self.key}={folder} cannot be loaded as a {kind}: {first}") from error
        check_whole(f"evaluation.{self.key}={folder}", info, self.model_class)
        self.model = model.to(self.device).eval().requires_grad_(False)

    def to(self, device: torch.device | str) -> Self:
        """Move to a device; returns itself."""
        self.device = torch.device(device)
        self.model.to(self.device)
        return self

    @property
    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What a score was taken with."""

    @abstractmethod
    def __call__(self, images: np.ndarray, captions: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Score of every image beside its caption, (N,) float64; NaN where the caption gives nothing to judge."""

    def pixels(self, images: np.ndarray) -> Tensor:
        """images: (B, H, W, 3) uint8 -> (B, 3, S, S) float32, as the model takes them."""
        found = self.processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
        return found["pixel_values"].to(self.device)


def _kind(folder: Path) -> str:
    """What config.json calls the model."""
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        return "model without a config.json"
