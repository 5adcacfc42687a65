"""Equal training compute: cells whose number of steps follows from the FLOPs of another cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from experiments.errors import UserError
from experiments.model_facts import ModelFacts
from experiments.run_config import RunConfig
from sweeps.axes import Choice, Sweep, labels_of, matches

STEPS = "trainer.max_steps"
"""What follows."""


def followed(sweep: Sweep, scale: str, choices: Mapping[str, Choice]) -> dict[str, Choice] | None:
    """The cell whose compute the cell of these choices gets; None where its steps are its own.

    Raises:
        UserError: the sweep has no such cell at this scale.
    """
    equal, labels = sweep.config.equal_compute, labels_of(choices)
    if equal is None or not matches(labels, equal.when):
        return None
    wanted = {**labels, **equal.to}
    for found in sweep.combinations(sweep.config.scales[scale].only):
        if labels_of(found) == wanted:
            return found
    raise UserError(f"equal_compute of sweep {sweep.name}: there is no cell {wanted} at scale {scale}.")


def equal_steps(config: RunConfig, other: RunConfig, facts: Callable[[RunConfig], ModelFacts]) -> int:
    """The steps after which `config` has come as near as it can to the training FLOPs of `other`."""
    return max(1, round(facts(other).training_flops(other) / facts(config).step_flops(config)))
