"""What the encoders share that come as a folder of Hugging Face transformers.

Shapes: N captions, B batch, T most tokens of a caption, E feature width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from lightning_modules.precision import computes_bfloat16
from lightning_modules.text_encoders.checkpoint import model_folder, tokenizer_in, weights_in
from lightning_modules.text_encoders.library import check_whole, import_transformers
from lightning_modules.text_encoders.ragged import RaggedText

BATCH = 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class PretrainedEncoder:
    """Captions through a tokenizer and a frozen model. The weights are loaded with the first caption.

    Args:
        config: of the encoder.
        device: where the weights go.
    """

    model_class = ""
    """Class of the model in transformers."""
    padding: str | bool = True
    """What the tokenizer pads to: the longest caption of a batch, or "max_length"."""

    def __init__(self, config: Any, device: torch.device | str = "cpu"):
        self.config = config
        self.device = torch.device(device)

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> RaggedText:
        """Features of N captions; what exceeds T tokens is cut off before it is encoded.

        Raises:
            ValueError: the library is not installed; the model cannot be loaded, or lacks weights.
        """
        tokenizer, model = self._network
        order = sorted(range(len(captions)), key=lambda i: len(captions[i]))  # little padding within a batch
        features: list[np.ndarray] = [np.empty(0)] * len(captions)
        pooled: list[np.ndarray | None] = [None] * len(captions)
        for start in range(0, len(captions), BATCH):
            chosen = order[start : start + BATCH]
            tokens = tokenizer(
                [captions[i] for i in chosen],
                padding=self.padding,
                truncation=True,
                max_length=self.config.text_tokens,
                return_tensors="pt",
            ).to(self.device)
            encoded = self._forward(model, tokens)
            # One transfer a batch, not one a caption.
            states, mask = encoded[0].to(torch.float16).cpu().numpy(), encoded[2].cpu().numpy()
            whole = None if encoded[1] is None else encoded[1].to(torch.float16).cpu().numpy()
            for row, i in enumerate(chosen):
                features[i] = states[row][mask[row]]
                if whole is not None:
                    pooled[i] = whole[row]
        wholes = [p for p in pooled if p is not None]
        return RaggedText(
            np.concatenate(features), np.array([len(f) for f in features]), np.stack(wholes) if wholes else None
        )

    def release(self) -> None:
        """Give the memory of the weights back."""
        self.__dict__.pop("_network", None)

    def _forward(self, model: Any, tokens: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        """A tokenizer's batch -> states (B, T, E), pooled (B, P) or None, and (B, T) bool: which states are kept."""
        raise TypeError(f"{type(self).__name__} does not say how it encodes.")

    def _dtype(self) -> torch.dtype:
        """As configured; in float32 on a CPU that does not compute in bfloat16. GPUs keep it: T5-XXL must fit."""
        slow = self.config.dtype == "bf16" and self.device.type == "cpu" and not computes_bfloat16("cpu")
        return torch.float32 if slow else DTYPES[self.config.dtype]

    @cached_property
    def _network(self) -> tuple[Any, Any]:
        name = f"text_encoder.name={self.config.name}"
        if not self.config.model:
            raise ValueError(f"{name} needs text_encoder.model=FOLDER (or a name on the Hugging Face hub).")
        transformers = import_transformers(f"Encoding captions with {name}")
        folder = model_folder(self.config.model)
        options = {"revision": self.config.revision} if folder is None else {"local_files_only": True}
        online = self.config.model
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                online if folder is None else tokenizer_in(folder), **options
            )
            model, info = getattr(transformers, self.model_class).from_pretrained(
                online if folder is None else weights_in(folder),
                dtype=self._dtype(),
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            first = " ".join(str(error).split())[:300]
            raise ValueError(f"text_encoder.model={self.config.model} cannot be loaded: {first}") from error
        check_whole(f"text_encoder.model={self.config.model}", info, self.model_class)
        return tokenizer, model.to(self.device).eval().requires_grad_(False)
