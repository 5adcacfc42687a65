"""Operations of a training, from those of one forward pass."""

from __future__ import annotations

from experiments.model_facts import ModelFacts
from tests.experiments.configs import small_config


def test_a_step_costs_three_forward_passes_of_its_batch() -> None:
    """One forward, and a backward of two: every product of matrices has two gradients."""
    config = small_config(trainer__batch_size=4, trainer__accumulate=2, trainer__max_steps=10)
    facts = ModelFacts(parameters=7, flops=100)
    assert facts.step_flops(config) == 3 * 100 * 4
    assert facts.training_flops(config) == 3 * 100 * 4 * 10
