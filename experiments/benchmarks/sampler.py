"""`ablate bench sampler`: what parallel decoding costs beyond its network.

The floor is the network alone: as many forward passes of the doubled batch as there are steps, timed in the same run.
`two passes` is how guidance is often written: the condition embedded anew in every step, and a pass for either half.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.bench import Bench
from experiments.benchmarks.cells.inputs import random_condition
from experiments.benchmarks.measure import interleave, machine
from experiments.benchmarks.problem import verify
from experiments.config import load_config
from experiments.errors import UserError
from experiments.run_config import RunConfig
from lightning_modules.conditions import Condition, repeat_condition
from lightning_modules.generators.config import GENERATORS
from lightning_modules.samplers.config import SAMPLERS, HaltonConfig
from lightning_modules.samplers.guidance import MaskedGenerator
from lightning_modules.samplers.noise import Noise

BASELINE, NAIVE, ALONE = "maskgit", "maskgit, two passes", "passes alone"
TOLERANCES = {"tokens that differ": 0.1}
"""A draw on the edge may fall the other way in a batch of another size, and change some of those after it."""


def sampler(
    preset: str = "maskmamba/demo", batches: Sequence[int] = (1, 16), steps: int = 12, seconds: float = 6.0
) -> Bench:
    """preset: of a masked generator; its weights are random. seconds: time spent per batch size."""
    config = load_config(preset)
    if config.objective.name != "masked":
        raise UserError(f"The benchmark samples masked generators, and {preset} is {config.objective.name}.")
    if config.generator.condition == "text":
        raise UserError(f"The benchmark samples classes, and {preset} takes captions; name a class-conditional preset.")
    config = load_config(preset, {"sampler.steps": str(steps)})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = GENERATORS.build(config.generator).to(device).eval().requires_grad_(False)
    title = f"Sampling {config.generator.grid_size**2} tokens in {steps} steps, {preset}, float32, without decoding"
    bench = Bench("sampler", title, baseline=BASELINE, machine=machine(torch.get_num_threads()))
    bench.notes.append("floor: the forward passes of the doubled batch alone, fastest of the same run")
    cases = {batch: _contenders(config, network, batch, device) for batch in batches}
    for batch, calls in cases.items():
        same = (calls[BASELINE]() == calls[NAIVE]()).float().mean()
        verify(bench, {f"{NAIVE}, B={batch}, tokens that differ": 1 - same.item()}, TOLERANCES)
    for batch, calls in cases.items():
        rows = interleave(f"B={batch}", "sampling", calls, baseline=BASELINE, seconds=seconds)
        floor = next(row.fastest_ms for row in rows if row.contender == ALONE)
        bench.rows += [row if row.contender == ALONE else replace(row, floor_ms=floor) for row in rows]
    return bench


class _TwoPasses:
    """Stands for a network, and splits every doubled batch into two passes with conditions embedded anew."""

    def __init__(self, network: Any):
        self.config, self.mask_token, self._network = network.config, network.mask_token, network

    def sampling_context(self, condition: Condition, drop: Tensor) -> tuple[Condition, Tensor]:
        """Left for later."""
        return condition, drop

    def __call__(self, tokens: Tensor, context: tuple[Tensor, Tensor]) -> Tensor:
        halves = zip(tokens.chunk(2), context[0].chunk(2), context[1].chunk(2), strict=True)
        return torch.cat([self._network(half, self._network.sampling_context(c, drop)) for half, c, drop in halves])


def _contenders(
    config: RunConfig, network: MaskedGenerator, batch: int, device: torch.device
) -> Mapping[str, Callable[[], Tensor]]:
    settings = config.sampler
    condition = random_condition(config.generator, batch, device)
    halton = HaltonConfig(steps=settings.steps, guidance=settings.guidance)
    noise = torch.arange(batch, device=device)
    drop = torch.arange(2 * batch, device=device) >= batch
    tokens = torch.full((2 * batch, config.generator.grid_size**2), network.mask_token, device=device)

    @torch.inference_mode()
    def passes() -> Tensor:
        context = network.sampling_context(repeat_condition(condition), drop)
        for _ in range(settings.steps):
            logits = network(tokens, context)
        return logits

    return {
        BASELINE: lambda: SAMPLERS.build(settings)(network, condition, Noise(0, noise)),
        "halton": lambda: SAMPLERS.build(halton)(network, condition, Noise(0, noise)),
        NAIVE: lambda: SAMPLERS.build(settings)(_TwoPasses(network), condition, Noise(0, noise)),
        ALONE: passes,
    }
