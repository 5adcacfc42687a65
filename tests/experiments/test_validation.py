"""Which settings change what is validated: those that are listed, and no others."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.run_config import SECTIONS
from experiments.validation import VALIDATION_TASK
from lightning_modules.config import OBJECTIVES, OptimConfig

OTHERS: dict[str, dict[str, Any]] = {
    "masked": {
        "mask_ratio": "cosine",
        "mask_ratio_low": 0.1,
        "mask_ratio_high": 0.7,
        "mask_ratio_mean": 0.9,
        "mask_ratio_std": 0.1,
        "ratio_per": "sample",
        "loss_on": "all",
        "label_smoothing": 0.0,
        "condition_dropout": 0.9,
    },
    "autoregressive": {"label_smoothing": 0.5, "condition_dropout": 0.9, "validation_dropout": 0.5},
    "diffusion": {"timesteps": "logit_normal", "variance_weight": 0.0, "condition_dropout": 0.9},
}
"""Another value of every setting."""


class Network(nn.Module):
    """Logits by token and by whether there is a condition; of latents, these themselves."""

    mask_token = 10

    def __init__(self, prediction: str = "noise") -> None:
        super().__init__()
        self.config = SimpleNamespace(prediction=prediction, learned_variance=False)
        self.table = nn.Parameter(torch.randn(2, 11, 10, generator=torch.Generator().manual_seed(0)))

    def embed_condition(self, condition: Tensor, drop: Tensor) -> Tensor:
        return drop

    def forward(self, x: Tensor, drop: Tensor, timesteps: Tensor | None = None) -> Tensor:
        return self.table[drop.long()[:, None], x] if timesteps is None else x


def validated(objective: str, prediction: str = "noise", **settings: Any) -> float:
    """val/loss of one and the same network."""
    config = OBJECTIVES[objective].config(**settings)
    module = OBJECTIVES.target(objective)(
        config, Network(prediction), OptimConfig(), max_steps=1, ema_decay=0.0, seed=0
    )
    logged: dict[str, Tensor] = {}
    module.log_dict = lambda values, **_: logged.update(values)
    module.all_gather = lambda x: x
    generator = torch.Generator().manual_seed(1)
    batch = {"tokens": torch.randint(10, (8, 16), generator=generator), "label": torch.zeros(8, dtype=torch.long)}
    batch["latents"] = torch.randn(8, 4, 4, 4, generator=generator)
    module.on_validation_epoch_start()
    with torch.no_grad():
        module.validation_step(batch, 0)
    module.on_validation_epoch_end()
    return float(logged["val/loss"])


@pytest.mark.parametrize(("objective", "setting"), [(name, key) for name, other in OTHERS.items() for key in other])
def test_a_setting_changes_what_is_validated_where_it_is_listed(objective: str, setting: str) -> None:
    changed = validated(objective) != validated(objective, **{setting: OTHERS[objective][setting]})
    assert changed == (f"objective.{setting}" in VALIDATION_TASK)


@pytest.mark.parametrize("objective", OTHERS)
def test_every_setting_is_looked_at(objective: str) -> None:
    assert {"name", *OTHERS[objective]} == {field.name for field in fields(OBJECTIVES[objective].config)}


def test_what_is_estimated_changes_the_error() -> None:
    assert "generator.prediction" in VALIDATION_TASK
    assert len({validated("diffusion", prediction) for prediction in ("noise", "velocity", "flow")}) == 3


def test_what_is_listed_exists() -> None:
    kinds = [(section, entry.config) for section, known in SECTIONS.items() for entry in known.entries.values()]
    assert VALIDATION_TASK <= {f"{section}.{field.name}" for section, config in kinds for field in fields(config)}
