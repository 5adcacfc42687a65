"""Solvers against a model whose ODE has a closed solution: data that are Gaussian.

For x_0 ~ N(m, r^2) the noise that an ideal network sees in x_t = a x_0 + s e is s (x_t - a m) / (a^2 r^2 + s^2), and
the ODE carries every sample along (x_t - a m) / sqrt(a^2 r^2 + s^2) = constant.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lightning_modules.noising import linear_schedule
from lightning_modules.samplers.config import SAMPLERS, DPMSolverConfig
from lightning_modules.samplers.noise import Noise

SCHEDULE = linear_schedule()
MEAN, SPREAD = 0.7, 0.4
SIZE = (2, 4, 4)
ONE = torch.ones(1, dtype=torch.float64)


class Gaussian:
    """The ideal network for Gaussian data; its condition is the data's mean, and without one the mean is 0."""

    def __init__(self, prediction: str = "noise"):
        self.config = SimpleNamespace(latent_channels=SIZE[0], grid_size=SIZE[1], prediction=prediction)
        self.calls: list[int] = []

    def sampling_context(self, condition: Tensor, drop: Tensor) -> Tensor:
        return torch.where(drop, 0.0, condition)[:, None, None, None]

    def __call__(self, x: Tensor, mean: Tensor, timesteps: Tensor) -> Tensor:
        self.calls.append(len(x))
        t = timesteps[0].item()
        if self.config.prediction == "flow":
            a, s = 1 - t / 1000, t / 1000
        else:
            a, s = SCHEDULE.signal[round(t)].item(), SCHEDULE.noise[round(t)].item()
        noise = s * (x - a * mean) / (a**2 * SPREAD**2 + s**2)
        start = mean + a * SPREAD**2 * (x - a * mean) / (a**2 * SPREAD**2 + s**2)
        match self.config.prediction:
            case "noise":
                return torch.cat([noise, torch.full_like(noise, 9.0)], dim=1)  # a learned variance is ignored
            case "velocity":
                return a * noise - s * start
        return noise - start


def _draw(config: DPMSolverConfig, prediction: str = "noise", count: int = 64) -> tuple[Tensor, Tensor]:
    """Samples, and where the exact solution of the ODE would have put them."""
    model, noise = Gaussian(prediction), Noise(0, torch.arange(count))
    samples = SAMPLERS.build(config)(model, torch.full((count,), MEAN), noise)
    start = Noise(0, torch.arange(count)).normal(samples[0].numel()).unflatten(-1, SIZE)
    a, s = (0.0, 1.0) if prediction == "flow" else (SCHEDULE.signal[-1].item(), SCHEDULE.noise[-1].item())
    exact = MEAN + SPREAD * (start - a * MEAN) / (a**2 * SPREAD**2 + s**2) ** 0.5
    return samples, exact


@pytest.mark.parametrize("prediction", ["noise", "velocity", "flow"])
def test_solvers_follow_the_exact_path(prediction: str) -> None:
    samples, exact = _draw(DPMSolverConfig(steps=50, guidance=1.0), prediction)
    assert (samples - exact).abs().max() < 0.02
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert samples.std().item() == pytest.approx(SPREAD, rel=0.03)


def test_two_steps_by_hand() -> None:
    """DPM-Solver++(2M) of the paper (Algorithm 2) at the timesteps of 20 trailing steps."""
    model, steps = Gaussian(), torch.arange(1000, 0, -50) - 1
    a, s = (torch.cat([table[steps], end]) for table, end in ((SCHEDULE.signal, ONE), (SCHEDULE.noise, 0 * ONE)))
    x, old = Noise(0, torch.arange(8)).normal(32).unflatten(-1, SIZE).double(), None
    for i, t in enumerate(steps):
        noise = model(x, torch.full((8, 1, 1, 1), MEAN), t[None])[:, : SIZE[0]]
        start = (x - s[i] * noise) / a[i]
        h = torch.log(a[i + 1] / s[i + 1]) - torch.log(a[i] / s[i])  # infinite in the last step, which is to x_0
        if old is not None and h.isfinite():
            r = (torch.log(a[i] / s[i]) - torch.log(a[i - 1] / s[i - 1])) / h
            drift = (1 + 0.5 / r) * start - 0.5 / r * old
        else:
            drift = start
        x, old = s[i + 1] / s[i] * x - a[i + 1] * torch.expm1(-h) * drift, start
    samples, _ = _draw(DPMSolverConfig(steps=20, guidance=1.0), count=8)
    torch.testing.assert_close(samples, x.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["noise", "flow"])
def test_order_one_is_ddim_and_euler(prediction: str) -> None:
    model, count = Gaussian(prediction), 10
    if prediction == "flow":
        a, s = 1 - torch.linspace(1, 0, count + 1), torch.linspace(1, 0, count + 1)
    else:
        steps = torch.arange(1000, 0, -100) - 1
        a, s = (torch.cat([table[steps], end]) for table, end in ((SCHEDULE.signal, ONE), (SCHEDULE.noise, 0 * ONE)))
    x = Noise(0, torch.arange(8)).normal(32).unflatten(-1, SIZE)
    for i in range(count):
        t = torch.as_tensor([1000 * s[i] if prediction == "flow" else steps[i]])
        output = model(x, torch.full((8, 1, 1, 1), MEAN), t)[:, : SIZE[0]]
        if prediction == "flow":
            x = x + (s[i + 1] - s[i]) * output
        else:
            x = (a[i + 1] * (x - s[i] * output) / a[i] + s[i + 1] * output).float()
    samples, _ = _draw(DPMSolverConfig(steps=count, order=1, guidance=1.0), prediction, count=8)
    torch.testing.assert_close(samples, x, rtol=2e-2 if prediction == "flow" else 1e-4, atol=2e-2)


class _Drift:
    """Flow that everywhere says 1, so that latents move as much as the noise level does; it keeps what it was told."""

    config = SimpleNamespace(latent_channels=1, grid_size=1, prediction="flow")

    def __init__(self) -> None:
        self.times: list[float] = []
        self.latents: list[float] = []

    def sampling_context(self, condition: Tensor, drop: Tensor) -> None: ...

    def __call__(self, x: Tensor, context: None, timesteps: Tensor) -> Tensor:
        self.times.append(timesteps.item())
        self.latents.append(x.item())
        return torch.ones_like(x)


def test_flow_is_told_how_noisy_its_latents_are() -> None:
    """As in training, 1000 t with its fraction."""
    model = _Drift()
    SAMPLERS.build(DPMSolverConfig(steps=7, order=1, guidance=1.0))(
        model, torch.zeros(1), Noise(0, torch.zeros(1).long())
    )
    moved = 1000 * (torch.tensor(model.latents) - model.latents[0])
    torch.testing.assert_close(torch.tensor(model.times), 999 + moved, rtol=0, atol=1e-2)


def test_more_steps_and_a_higher_order_come_closer() -> None:
    def error(**settings) -> float:
        samples, exact = _draw(DPMSolverConfig(guidance=1.0, **settings))
        return (samples - exact).square().mean().sqrt().item()

    assert error(steps=50) < error(steps=20) < error(steps=10)
    assert error(steps=50, order=2) < error(steps=50, order=1)


def test_guidance_moves_away_from_the_unconditional_mean() -> None:
    means = {}
    for scale in (0.0, 1.0, 2.0):
        samples, _ = _draw(DPMSolverConfig(guidance=scale))
        means[scale] = samples.mean().item()
    assert means[0.0] == pytest.approx(0.0, abs=0.05) and means[1.0] == pytest.approx(MEAN, abs=0.05)
    assert means[2.0] == pytest.approx(2 * MEAN, abs=0.1)  # linear for Gaussians of equal spread


def test_one_forward_pass_per_step_doubled_only_under_guidance() -> None:
    for scale, batch in ((1.0, 3), (2.0, 6)):
        model = Gaussian()
        SAMPLERS.build(DPMSolverConfig(steps=5, guidance=scale))(model, torch.zeros(3), Noise(0, torch.arange(3)))
        assert model.calls == [batch] * 5


def test_a_sample_does_not_depend_on_its_batch() -> None:
    sampler, model = SAMPLERS.build(DPMSolverConfig(steps=6)), Gaussian()
    together = sampler(model, torch.full((5,), MEAN), Noise(3, torch.arange(5)))
    alone = sampler(model, torch.full((1,), MEAN), Noise(3, torch.tensor([4])))
    torch.testing.assert_close(together[4:], alone)


def test_known_parts_are_refused() -> None:
    sampler = SAMPLERS.build(DPMSolverConfig())
    with pytest.raises(ValueError, match="Inpainting"):
        sampler(Gaussian(), torch.zeros(1), Noise(0, torch.arange(1)), known=torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "1 .. 1000"),
        ({"guidance": -1.0}, "guidance=-1.0 must be at least 0"),
        ({"guidance": math.nan}, "guidance=nan must be at least 0"),
    ],
)
def test_bad_settings_are_one_sentence(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DPMSolverConfig(**settings)


def test_normal_draws_are_normal() -> None:
    draws = Noise(0, torch.arange(200)).normal(500)
    assert draws.mean().abs() < 0.02 and abs(draws.std() - 1) < 0.02 and torch.isfinite(draws).all()
    assert abs((draws**4).mean() - 3) < 0.1
