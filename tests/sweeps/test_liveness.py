"""Axis liveness: every value of every axis of every named sweep changes the network, the loss or the samples.

An option that is read but does nothing is the commonest fault of ablation code, and no table would show it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch

from experiments.config import RunConfig, load_config
from lightning_modules.config import OBJECTIVES
from lightning_modules.generators.config import GENERATORS
from lightning_modules.samplers.config import SAMPLERS
from lightning_modules.samplers.noise import Noise
from sweeps.definition import Axis, Sweep, load_sweep, sweep_names

TINY = {"generator.width": 32, "generator.heads": 2, "generator.depth": 4, "generator.dropout": 0.0}
BATCH = 12


def _axes() -> list[Any]:
    return [pytest.param(n, a.name, id=f"{n}-{a.name}") for n in sweep_names() for a in load_sweep(n).axes]


def _config(sweep: Sweep, axis: Axis, index: int) -> RunConfig:
    """The sweep's first cell with another value of one axis, as small as the axis allows."""
    overrides = dict(TINY)
    for other in sweep.axes:
        overrides |= other.choices[index if other.name == axis.name else 0].overrides
    return load_config("maskmamba/demo", overrides)


@torch.no_grad()
def _fingerprint(config: RunConfig) -> str:
    """Of parameters, training loss and samples; a parameter's value depends on its name and shape alone."""
    model = GENERATORS.build(config.generator)
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(sum(name.encode()))
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
    module = OBJECTIVES.target(config.objective.name)(
        config.objective, model, config.optim, max_steps=2, ema_decay=0.0, seed=0
    )
    module.log_dict = lambda *args, **kwargs: None
    torch.manual_seed(0)
    tokens = torch.randint(0, config.generator.vocab_size, (BATCH, config.generator.grid_size**2))
    labels = torch.arange(BATCH) % config.generator.num_classes
    digest.update(module.training_step({"tokens": tokens, "label": labels}, 0).numpy().tobytes())
    sampler = SAMPLERS.build(config.sampler)
    digest.update(sampler(model.eval(), labels, Noise(0, torch.arange(BATCH))).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(("sweep_name", "axis_name"), _axes())
def test_every_value_changes_something(sweep_name: str, axis_name: str) -> None:
    sweep = load_sweep(sweep_name)
    axis = sweep.axis(axis_name)
    kept = [i for i in range(len(axis.choices)) if _is_small(axis.choices[i].overrides)]
    assert len(kept) >= 2
    found: dict[str, str] = {}
    for index in kept:
        label = axis.choices[index].label
        fingerprint = _fingerprint(_config(sweep, axis, index))
        assert fingerprint not in found, f"{label} and {found[fingerprint]} are the same model"
        found[fingerprint] = label


def _is_small(overrides: Any) -> bool:
    """Published sizes take too long here; their presets are counted elsewhere."""
    return overrides.get("generator.width", 0) <= 160
