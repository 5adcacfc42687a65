"""Exact parameters and FLOPs of what a run trains, built without memory or arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.run_config import RunConfig

BACKWARD = 2
"""A backward pass costs about twice its forward pass: every matrix product has two gradients."""


@dataclass(frozen=True)
class ModelFacts:
    """What a model is, apart from its weights."""

    parameters: int
    flops: int
    """Of one forward pass over one sample; a multiplication and an addition count one each."""

    def step_flops(self, config: RunConfig) -> int:
        """Of one optimiser step, forward and backward over its whole batch."""
        return (1 + BACKWARD) * self.flops * config.trainer.batch_size

    def training_flops(self, config: RunConfig) -> int:
        """Of the whole training."""
        return self.step_flops(config) * config.trainer.max_steps


def build_facts(config: RunConfig) -> ModelFacts:
    """Build what the run trains from meta tensors, which have a shape and no content, run it once, and count."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import lightning_modules.kernels  # noqa: F401  (a counter knows the operations registered before it was made)

    # Building stays outside the counter, which would take apart every initialisation.
    with torch.device("meta"), torch.no_grad():
        model, inputs = _build(config)
        with FlopCounterMode(display=False) as counter:
            model.eval()(*inputs())
    return ModelFacts(sum(p.numel() for p in model.parameters()), counter.get_total_flops())


def _build(config: RunConfig) -> tuple[Any, Callable[[], Sequence[Any]]]:
    """What the run trains or times, and what makes one sample of its inputs, conditions embedded."""
    import torch

    from experiments.networks import new_network

    if config.benchmark.name == "layer":
        from experiments.benchmarks.cells.layer import build_layer

        return build_layer(config.benchmark), lambda: [torch.zeros(1, config.benchmark.length, config.benchmark.width)]
    model: Any = new_network(config)
    if config.trains_tokenizer:
        side = config.tokenizer.image_size
        return model, lambda: [torch.zeros(1, 3, side, side)]
    return model, model.example_inputs
