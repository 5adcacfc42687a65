"""Attribute binding: does each thing in the image have the attributes that its caption gives it (T2I-CompBench)?

As in T2I-CompBench (arXiv 2307.06350, section 4.1): BLIP-VQA is asked "a green bench?", "a blue bowl?", one phrase of
the caption at a time; an image scores the product of its shares p(yes) / (p(yes) + p(no)) of the first word answered.
The published score finds the phrases with spaCy; see `lightning_modules.metrics.phrases`.

Shapes: N images, H x W pixels, B questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.metrics.local_model import LocalModel
from lightning_modules.metrics.phrases import noun_phrases

MOST_WORDS = 35
"""Tokens of a question."""


class AttributeBinding(LocalModel):
    """A BLIP for visual question answering in a local folder, such as that of blip-vqa-capfilt-large.

    Args and errors: see `LocalModel`.
    """

    name, key, model_type, model_class = "attribute_binding", "blip_vqa_weights", ("blip",), "BlipForQuestionAnswering"

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        super().__init__(folder, device)
        self._yes, self._no = self.tokenizer.convert_tokens_to_ids(["yes", "no"])
        if self.tokenizer.unk_token_id in (self._yes, self._no):
            raise ValueError(f"evaluation.{self.key}={folder}: its tokenizer does not know yes and no.")

    @property
    def protocol(self) -> dict[str, Any]:
        """What the score was taken with."""
        side = self.model.config.vision_config.image_size
        return {"fingerprint": self.fingerprint, "model": f"BLIP-VQA at {side} pixels", "phrases": "split by rules"}

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, captions: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Score of every image, (N,) float64 in [0, 1]; NaN where a caption has no phrase.

        Args:
            images: (N, H, W, 3) uint8.
            captions: N strings.
        """
        asked = [(i, f"{phrase}?") for i, caption in enumerate(captions) for phrase in noun_phrases(caption)]
        scores = np.full(len(images), np.nan)
        for start in range(0, len(asked), batch_size):
            rows, questions = zip(*asked[start : start + batch_size], strict=True)
            for i, share in zip(rows, self._yes_share(images[list(rows)], questions).tolist(), strict=True):
                scores[i] = share if np.isnan(scores[i]) else scores[i] * share
        return scores

    def _yes_share(self, images: np.ndarray, questions: Sequence[str]) -> Tensor:
        """(B, H, W, 3), B questions -> p(yes) / (p(yes) + p(no)), (B,)."""
        start = self.model.decoder_start_token_id
        text = self.tokenizer(
            list(questions), padding=True, truncation=True, max_length=MOST_WORDS, return_tensors="pt"
        ).to(self.device)
        text["input_ids"][:, 0] = start + 1  # BLIP's [ENC], which stands beside its [DEC] and not in BERT's vocabulary
        states = self.model.vision_model(self.pixels(images))[0]
        question = self.model.text_encoder(text["input_ids"], text["attention_mask"], encoder_hidden_states=states)[0]
        first = self.model.text_decoder(
            torch.full((len(questions), 1), start, device=self.device),
            encoder_hidden_states=question,
            encoder_attention_mask=text["attention_mask"],
        ).logits[:, 0]
        return torch.sigmoid(first[:, self._yes] - first[:, self._no]).double()
