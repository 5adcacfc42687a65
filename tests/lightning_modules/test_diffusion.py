"""Diffusion: the noising process against diffusers, the variational bound, and losses whose optimum is known.

Shapes: B batch, D channels, h x w latent.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.config import DiffusionConfig, OptimConfig
from lightning_modules.diffusion import DiffusionModule, Terms
from lightning_modules.generators.configs.dimba import DimbaConfig
from lightning_modules.generators.dimba import Dimba
from lightning_modules.noising import add_noise, linear_schedule, start_from, variational_bound

SCHEDULE = linear_schedule()
MODEL = DimbaConfig(latent_channels=4, grid_size=4, width=16, depth=1, heads=2, condition="class", num_classes=3)


def _latents(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 4, 4, 4, generator=generator), torch.randn(count, 4, 4, 4, generator=generator)


def test_the_process_is_that_of_diffusers() -> None:
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    x0, noise = _latents()
    time = torch.tensor([0.0, 0.1234, 0.5, 0.75, 0.9, 0.9999])
    steps = (time * 1000).long()
    ours = add_noise(SCHEDULE, "noise", x0, noise, time)
    torch.testing.assert_close(ours.latents, theirs.add_noise(x0, noise, steps), rtol=1e-5, atol=1e-5)
    velocity = add_noise(SCHEDULE, "velocity", x0, noise, time)
    torch.testing.assert_close(velocity.target, theirs.get_velocity(x0, noise, steps), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.timesteps, steps) and torch.equal(ours.target, noise)


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_a_perfect_estimate_implies_the_start(prediction: str) -> None:
    x0, noise = _latents()
    noised = add_noise(SCHEDULE, prediction, x0, noise, torch.linspace(0, 0.9, len(x0)))
    found = start_from(SCHEDULE.at(noised.timesteps), prediction, noised.latents, noised.target)
    torch.testing.assert_close(found, x0, rtol=1e-3, atol=1e-3)


def test_flow_runs_straight_from_data_to_noise() -> None:
    x0, noise = _latents(2)
    ends = add_noise(SCHEDULE, "flow", x0, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(ends.latents[0], x0[0]) and torch.equal(ends.latents[1], noise[1])
    assert torch.equal(ends.target, noise - x0) and ends.timesteps.tolist() == [0, 1000]


def test_the_posterior_is_bayes_rule() -> None:
    """Of x_{t-1}, which is normal around a_{t-1} x_0, given x_t, normal around sqrt(1 - beta_t) x_{t-1}."""
    beta, signal, noise = SCHEDULE.log_beta.exp()[1:], SCHEDULE.signal[:-1], SCHEDULE.noise[:-1]
    precision = (1 - beta) / beta + 1 / noise**2
    torch.testing.assert_close(SCHEDULE.posterior_log_variance[1:], -precision.log())
    torch.testing.assert_close(SCHEDULE.posterior_start[1:], signal / noise**2 / precision)
    torch.testing.assert_close(SCHEDULE.posterior_now[1:], (1 - beta).sqrt() / beta / precision)


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_the_bound_is_the_divergence_from_the_true_reverse_step(prediction: str) -> None:
    x0, noise = _latents()
    noised = add_noise(SCHEDULE, prediction, x0, noise, torch.linspace(0.1, 0.9, len(x0)))
    at = SCHEDULE.at(noised.timesteps)
    posterior = torch.distributions.Normal(0.0, (0.5 * at.posterior_log_variance).exp())
    for error in (0.0, 0.3):
        start = error * at.noise / (at.signal if prediction == "noise" else 1)  # by so much x_0 is missed
        for variance, log_variance in ((-1.0, at.posterior_log_variance), (1.0, at.log_beta)):
            step = torch.distributions.Normal(at.posterior_start * start, (0.5 * log_variance).exp())
            expected = torch.distributions.kl_divergence(posterior, step).flatten() / math.log(2)
            output = noised.target + error
            bound = variational_bound(SCHEDULE, prediction, x0, noised, output, torch.full_like(x0, variance))
            torch.testing.assert_close(bound, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_the_last_step_is_scored_as_a_likelihood_of_eight_bit_values(value: float) -> None:
    """Within 1/255, and beyond it at both ends of [-1, 1]; by another estimate than the true one."""
    x0, noise = torch.full((1, 1, 1, 1), value), torch.ones(1, 1, 1, 1)
    noised = add_noise(SCHEDULE, "noise", x0, noise, torch.zeros(1))
    bits = variational_bound(SCHEDULE, "noise", x0, noised, noised.target + 0.5, torch.zeros_like(x0)).item()
    at = SCHEDULE.at(noised.timesteps)
    std = (0.25 * (at.log_beta + at.posterior_log_variance)).exp().item()
    step = torch.distributions.Normal(value - 0.5 * (at.noise / at.signal).item(), std)
    lower, upper = (step.cdf(torch.tensor(value + edge)).item() for edge in (-1 / 255, 1 / 255))
    mass = {-1.0: upper, 0.0: upper - lower, 1.0: 1 - lower}[value]
    assert bits == pytest.approx(-math.log2(mass), rel=0.01)


class _Constant(nn.Module):
    """Estimates the same value everywhere."""

    def __init__(self, prediction: str, learned_variance: bool):
        super().__init__()
        self.config = SimpleNamespace(prediction=prediction, learned_variance=learned_variance)
        self.value = nn.Parameter(torch.zeros(()))

    def embed_condition(self, condition: Tensor, drop: Tensor) -> None:
        return None

    def forward(self, latents: Tensor, context: None, timesteps: Tensor) -> Tensor:
        channels = latents.shape[1] * (2 if self.config.learned_variance else 1)
        return self.value.expand(len(latents), channels, *latents.shape[2:])


def _module(model: nn.Module, **objective) -> DiffusionModule:
    module = DiffusionModule(DiffusionConfig(**objective), model, OptimConfig(), max_steps=2, ema_decay=0.0, seed=0)
    module.logged = {}
    module.log_dict = lambda values, **kwargs: module.logged.update(values)
    return module


@pytest.mark.parametrize(("prediction", "expected"), [("noise", 1.0), ("velocity", 1.0), ("flow", 2.0)])
def test_saying_nothing_costs_the_variance_of_the_target(prediction: str, expected: float) -> None:
    """With data of unit variance: Var(e) = 1, Var(a e - s x) = 1, Var(e - x) = 2."""
    module = _module(_Constant(prediction, False))
    batch = {"latents": torch.randn(64, 4, 8, 8), "label": torch.zeros(64, dtype=torch.long)}
    torch.manual_seed(0)
    assert module.training_step(batch, 0).item() == pytest.approx(expected, rel=0.03)


def test_the_bound_trains_the_variance_and_nothing_else() -> None:
    torch.manual_seed(0)
    model = Dimba(MODEL)
    nn.init.normal_(model.head.linear.weight)
    batch = {"latents": torch.randn(6, 4, 4, 4), "label": torch.arange(6) % 3}
    gradients = []
    for weight in (0.0, 5.0):
        module = _module(model, variance_weight=weight)
        model.zero_grad()
        torch.manual_seed(1)
        module.training_step(batch, 0).backward()
        gradients.append(model.head.linear.weight.grad.clone().unflatten(0, (-1, 8)))  # (p p, channels, C)
    without, with_bound = gradients
    assert torch.equal(without[:, :4], with_bound[:, :4]) and without[:, 4:].abs().max() == 0
    assert with_bound[:, 4:].abs().max() > 0


def test_validation_is_the_same_every_time_and_counts_every_sample() -> None:
    module = _module(_Constant("noise", False))
    batches = [{"latents": torch.randn(n, 4, 4, 4), "label": torch.zeros(n, dtype=torch.long)} for n in (8, 3)]
    module.all_gather = lambda values: values
    losses = []
    for _ in range(2):
        torch.randn(5)  # whatever else draws random numbers
        module.on_validation_epoch_start()
        for i, batch in enumerate(batches):
            module.validation_step(batch, i)
        module.on_validation_epoch_end()
        losses.append(module.logged["val/loss"].item())
    assert losses[0] == losses[1] and module._sums[2] == 11
    assert "val/bound" not in module.logged


def test_validation_averages_over_samples_at_times_spread_evenly() -> None:
    module, times, drawn = _module(_Constant("noise", True)), [], []
    module.all_gather = lambda values: values

    def terms(model: nn.Module, x0: Tensor, noise: Tensor, time: Tensor, *rest: object) -> Terms:
        times.append(time)
        drawn.append(noise[:2])
        return Terms(torch.arange(len(x0)).float(), torch.full((len(x0),), 1.0 / len(x0)))

    module._terms = terms
    module.on_validation_epoch_start()
    for i, count in enumerate((8, 2)):
        module.validation_step({"latents": torch.zeros(count, 1, 1, 1), "label": torch.zeros(count)}, i)
    module.on_validation_epoch_end()
    assert {key: value.item() for key, value in module.logged.items()} == pytest.approx(
        {"val/loss": (28 + 1) / 10, "val/bound": 2 / 10}
    )
    assert [(8 * times[0]).long().sort()[0].tolist(), (2 * times[1]).long().sort()[0].tolist()] == [[*range(8)], [0, 1]]
    assert not torch.isclose(*drawn).any()  # every batch has noise of its own


def test_a_time_that_is_rounded_to_the_end_is_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The greatest random number, a part of one sample's share of 256, is lost beside the 255 shares before it."""
    module = _module(_Constant("noise", True))
    module.on_validation_epoch_start()
    monkeypatch.setattr(torch, "rand", lambda *sizes, generator: torch.tensor(1 - 2.0**-24))
    module.validation_step({"latents": torch.zeros(256, 1, 1, 1), "label": torch.zeros(256)}, 0)
    assert module._sums.isfinite().all()
    x0, noise = _latents(1)
    last, end = (add_noise(SCHEDULE, "velocity", x0, noise, torch.tensor([time])) for time in (0.9995, 1.0))
    assert all(map(torch.equal, last, end)) and end.timesteps == 999


def test_training_times_can_gather_in_the_middle() -> None:
    seen: list[Tensor] = []
    for timesteps in ("uniform", "logit_normal"):
        module = _module(_Constant("flow", False), timesteps=timesteps)
        model = module.model
        forward = model.forward
        model.forward = lambda x, c, t, forward=forward: seen.append(t) or forward(x, c, t)
        torch.manual_seed(0)
        module.training_step({"latents": torch.zeros(2000, 1, 1, 1), "label": torch.zeros(2000)}, 0)
    middle = [((t > 250) & (t < 750)).float().mean().item() for t in seen]
    assert middle[0] == pytest.approx(0.5, abs=0.05) and middle[1] == pytest.approx(0.728, abs=0.05)


def test_the_schedule_is_brought_to_the_device_once() -> None:
    """Left on the CPU, its tables would be copied, and waited for, in every step."""
    module = DiffusionModule(DiffusionConfig(), Dimba(MODEL), OptimConfig(), max_steps=1, ema_decay=0.0, seed=0)
    module.to("meta")
    with torch.device("meta"):
        x0, time = torch.zeros(2, 4, 4, 4), torch.zeros(2)
        nobody = torch.zeros(2, dtype=torch.bool)
        module._terms(module.model, x0, x0, time, torch.zeros(2, dtype=torch.long), nobody)
    assert all(table.device.type == "meta" for table in module.schedule)
    assert SCHEDULE.to(torch.device("cpu")) is SCHEDULE
