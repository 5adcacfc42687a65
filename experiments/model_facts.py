"""Exact parameters and FLOPs of what a run trains, built without memory or arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace

from experiments.config import RunConfig

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

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        if config.benchmark.name == "layer":
            from experiments.benchmarks.cells.layer import build_layer

            model = build_layer(config.benchmark).eval()
            model(torch.zeros(1, config.benchmark.length, config.benchmark.width))
        elif config.objective.name == "reconstruction":
            from lightning_modules.tokenizers.config import TOKENIZERS

            model = TOKENIZERS.build(replace(config.tokenizer, weights="")).eval()
            side = config.tokenizer.image_size
            model(torch.zeros(1, 3, side, side))
        else:
            from lightning_modules.generators.config import GENERATORS

            model = GENERATORS.build(config.generator).eval()
            model(*model.example_inputs())
    return ModelFacts(sum(p.numel() for p in model.parameters()), counter.get_total_flops())
