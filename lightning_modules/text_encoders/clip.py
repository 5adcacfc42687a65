"""CLIP's text encoder as aMUSEd uses it: states of the last layer but one, and the projected feature of the caption."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_modules.text_encoders.config import CLIPConfig
from lightning_modules.text_encoders.pretrained import PretrainedEncoder


class CLIP(PretrainedEncoder):
    """`config.layer` picks the states.

    The pooled feature needs the projection, which a CLIP that was published without one lacks, such as Stable
    Diffusion's: those are refused.

    CLIP attends causally, so that padding changes no other token; aMUSEd therefore hands no mask to the encoder, and
    the states of the padding on to its generator (`config.padding` = encoded).
    """

    model_class = "CLIPTextModelWithProjection"

    def __init__(self, config: CLIPConfig, device: torch.device | str = "cpu"):
        super().__init__(config, device)
        self.padding = "max_length" if config.padding == "encoded" else True

    def _forward(self, model: Any, tokens: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        output = model(input_ids=tokens["input_ids"], output_hidden_states=True)
        mask = tokens["attention_mask"].bool()
        if self.config.padding == "encoded":
            mask = torch.ones_like(mask)
        return output.hidden_states[self.config.layer], output.text_embeds, mask
