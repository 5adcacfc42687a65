"""torch.compile sees every generator as one graph, custom operators included, and computes the same."""

from __future__ import annotations

import pytest
import torch

from experiments.config import load_config
from lightning_modules.generators.config import GENERATORS

TINY = {"generator.width": 32, "generator.heads": 2, "generator.depth": 2, "generator.dropout": 0.0}


@pytest.mark.parametrize("mixer", ["bi_mamba_v2", "bi_mamba", "attention"])
def test_compiled_training_step_equals_the_eager_one(mixer: str) -> None:
    scheme = "uniform" if mixer == "attention" else "serial_v2"
    config = load_config("maskmamba/demo", TINY | {"generator.mixer": mixer, "generator.hybrid_scheme": scheme})
    torch.manual_seed(0)
    model = GENERATORS.build(config.generator)
    tokens, context = model.example_inputs()
    results = []
    for forward in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        logits = forward(tokens, context)
        logits.square().sum().backward(retain_graph=True)
        results.append([logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    torch._dynamo.reset()
    assert len(results[0]) == len(results[1]) > 10
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
