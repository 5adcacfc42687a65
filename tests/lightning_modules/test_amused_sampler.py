"""Sampler `amused` against diffusers' AmusedScheduler, fed with the same random numbers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers.schedulers import scheduling_amused
from diffusers.schedulers.scheduling_amused import AmusedScheduler

from lightning_modules.samplers.config import SAMPLERS, AmusedConfig
from lightning_modules.samplers.draw import draw_tokens
from lightning_modules.samplers.noise import Noise
from lightning_modules.samplers.schedule import masked_counts

COUNT, LENGTH, CODES, MASK = 3, 64, 20, 20


class Network:
    """Logits that depend on tokens, position and condition; stands in for a generator."""

    config = SimpleNamespace(grid_size=8)
    mask_token = MASK

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(MASK + 1, CODES, generator=generator)
        self.bias = torch.randn(LENGTH, CODES, generator=generator)

    def sampling_context(self, condition: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
        return torch.where(drop, 0, condition).float()

    def __call__(self, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        seen = self.table[tokens]
        return 0.3 * (seen.mean(1, keepdim=True) - seen) * (1 + context[:, None, None]) + self.bias


def _diffusers(config: AmusedConfig, noise: Noise, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """diffusers' pipeline around its scheduler, which draws from our uniform numbers."""

    def multinomial(probs: torch.Tensor, count: int, generator: None = None) -> torch.Tensor:
        return draw_tokens(probs.log().view(COUNT, LENGTH, CODES), noise.uniform(LENGTH))[0].view(-1, 1)

    monkeypatch.setattr(scheduling_amused.torch, "multinomial", multinomial)
    monkeypatch.setattr(scheduling_amused, "gumbel_noise", lambda t, generator=None: noise.gumbel(LENGTH))
    scheduler, network = AmusedScheduler(MASK), Network()
    first = 1 - 1 / config.steps if config.annealing == "maskgit" else 1
    scheduler.set_timesteps(config.steps, (config.confidence_noise * first, 0))
    sample = torch.full((COUNT, LENGTH), MASK)
    condition = torch.arange(1, COUNT + 1)
    for timestep in scheduler.timesteps:
        conditional, none = (network(sample, c) for c in (condition, torch.zeros(COUNT)))
        logits = none + config.guidance * (conditional - none)
        sample = scheduler.step(logits, timestep, sample).prev_sample
    return sample


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"steps": 1},
        {"steps": 9, "guidance": 3.0},
        {"confidence_noise": 6.0},
        {"steps": 30},
        {"annealing": "maskgit", "guidance": 2.0, "confidence_noise": 6.0},
    ],
)
def test_equal_to_diffusers(change: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    config = AmusedConfig(**change)
    ours = SAMPLERS.build(config)(Network(), torch.arange(1, COUNT + 1), Noise(5, torch.arange(COUNT)))
    assert torch.equal(ours, _diffusers(config, Noise(5, torch.arange(COUNT)), monkeypatch))
    assert ours.max() < CODES


def test_annealing_and_counts_are_its_own() -> None:
    condition, noise = torch.arange(1, COUNT + 1), lambda: Noise(5, torch.arange(COUNT))
    config = AmusedConfig(guidance=2.0, confidence_noise=6.0)
    ours = SAMPLERS.build(config)(Network(), condition, noise())
    for change in ({"annealing": "maskgit"}, {"schedule": "cosine"}):
        assert not torch.equal(ours, SAMPLERS.build(replace(config, **change))(Network(), condition, noise()))
    assert (masked_counts("cosine", 12, 256)[7], masked_counts("amused", 12, 256)[7]) == (128, 127)
