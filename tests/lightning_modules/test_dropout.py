"""Where generators drop activations: behind the embedding, and behind every branch of a layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.generators.config import GENERATORS
from lightning_modules.layers.residual import Residual

SIZES: dict[str, Any] = {"vocab_size": 32, "grid_size": 4, "num_classes": 3, "width": 32, "depth": 4, "dropout": 0.5}
OWN: dict[str, dict[str, Any]] = {
    "maskmamba": {"heads": 4},
    "llamagen": {"heads": 4},
    "aim": {},
    "mmamba": {"heads": 4, "text_tokens": 4, "text_width": 8, "pooled_width": 8, "end_width": 16, "end_heads": 2},
}


@pytest.mark.parametrize("name", ["maskmamba", "aim", "llamagen"])
def test_half_of_the_embeddings_are_dropped_in_training_alone(name: str) -> None:
    model = GENERATORS.build(GENERATORS[name].config(**SIZES, **OWN[name]))
    model.layers = nn.ModuleList()
    zeros: list[float] = []
    model.norm.register_forward_pre_hook(lambda _, inputs: zeros.append((inputs[0] == 0).float().mean().item()))
    tokens, drop = torch.randint(0, 32, (8, 16)), torch.zeros(8, dtype=torch.bool)
    for training in (True, False):
        model.train(training)(tokens, model.embed_condition(torch.zeros(8, dtype=torch.long), drop))
    assert zeros[0] == pytest.approx(0.5, abs=0.05) and zeros[1] == 0


@pytest.mark.parametrize("name", ["maskmamba", "aim", "llamagen", "mmamba"])
def test_every_branch_of_a_layer_has_the_generators_share(name: str) -> None:
    sizes = {key: value for key, value in (SIZES | OWN[name]).items() if name != "mmamba" or key != "num_classes"}
    with torch.device("meta"):
        model = GENERATORS.build(GENERATORS[name].config(**sizes))
    shares = [[m.dropout for m in layer.modules() if isinstance(m, Residual)] for layer in model.layers]
    assert shares == [[0.5]] * 4
