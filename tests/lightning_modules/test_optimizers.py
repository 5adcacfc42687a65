"""Optimisers by name: what they are given, and that they learn; the learning rate over the steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_modules.base import TrainingModule
from lightning_modules.config import OptimConfig

SETTINGS = {"adamw": [0.9, 0.95], "came": [0.9, 0.999, 0.9999]}


def _module(**optim) -> TrainingModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    return TrainingModule(model, OptimConfig(**optim), max_steps=10, ema_decay=0.0, seed=0)


@pytest.mark.parametrize("name", SETTINGS)
def test_it_learns(name: str) -> None:
    module = _module(optimizer=name, betas=SETTINGS[name], lr=1e-2)
    optimizer = module.build_optimizer(fused=False)
    assert type(optimizer).__name__.lower() == name
    x = torch.randn(64, 8)
    losses = []
    for _ in range(60):
        loss = (module.model(x) - x[:, :1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("name", SETTINGS)
def test_only_matrices_decay(name: str) -> None:
    module = _module(optimizer=name, betas=SETTINGS[name], weight_decay=0.1)
    decayed, rest = module.build_optimizer(fused=False).param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert list(rest["betas"]) == SETTINGS[name]
    assert all(p.dim() == 2 for p in decayed["params"]) and all(p.dim() == 1 for p in rest["params"])


def test_came_keeps_its_second_moments_as_rows_and_columns() -> None:
    module = _module(optimizer="came", betas=SETTINGS["came"])
    optimizer = module.build_optimizer(fused=False)
    module.model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    state = optimizer.state[module.model[0].weight]
    assert state["exp_avg_sq_row"].shape == (16,) and state["exp_avg_sq_col"].shape == (8,)


@pytest.mark.parametrize(
    ("name", "betas"), [("adamw", [0.9, 0.99, 0.999]), ("came", [0.9, 0.99]), ("adamw", [0.9, 1.0])]
)
def test_betas_must_fit_the_optimiser(name: str, betas: list[float]) -> None:
    with pytest.raises(ValueError, match=f"numbers in .* for {name}"):
        OptimConfig(optimizer=name, betas=betas)


@pytest.mark.parametrize(
    ("schedule", "falling"),
    [
        ("constant", [1.0] * 6),
        ("linear", [1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [1.0, 0.9330127, 0.75, 0.5, 0.25, 0.0669873]),
    ],
)
def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing(schedule: str, falling: list[float]) -> None:
    module = _module(lr=0.5, warmup_steps=4, schedule=schedule)  # of 10 steps
    module.trainer = SimpleNamespace(precision="32-true")
    made = module.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        scheduler.step()
    after = 1.0 if schedule == "constant" else 0.0
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, *falling, after, after], abs=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_warm_up_may_take_the_whole_training(schedule: str) -> None:
    module = _module(warmup_steps=10, schedule=schedule)
    assert [module._lr_factor(step) for step in range(11)] == pytest.approx([*(n / 10 for n in range(1, 11)), 1.0])


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", True), ("16-mixed", False)])
def test_a_step_is_fused_unless_a_gradient_scaler_comes_before_it(precision: str, fused: bool) -> None:
    module = _module()
    module.trainer = SimpleNamespace(precision=precision)
    assert module.configure_optimizers()["optimizer"].defaults["fused"] is fused
