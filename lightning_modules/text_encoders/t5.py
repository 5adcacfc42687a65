"""T5's encoder: T5-Large (MaskMamba, LlamaGen, AiM), Flan-T5-XXL and t5-v1_1-xxl (Dimba, PixArt)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_modules.text_encoders.pretrained import PretrainedEncoder


class T5(PretrainedEncoder):
    """The last layer's states; captions are taken as they are, without the clean-up that some data sets need."""

    model_class = "T5EncoderModel"

    def _forward(self, model: Any, tokens: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        mask = tokens["attention_mask"]
        return model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state, None, mask.bool()
