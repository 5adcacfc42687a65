"""The forward process of diffusion and what a network may estimate of it (DDPM, arXiv 2006.11239; IDDPM, 2102.09672).

Two processes: variance preserving, x_t = a_t x_0 + s_t e at t = 0 .. T - 1 with a_t^2 + s_t^2 = 1 and linear betas; and
the straight path of flow matching, x_t = (1 - t) x_0 + t e. Networks are told the time in [0, 1000) either way.

Shapes: B batch, D latent channels, h x w latent.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

TRAIN_STEPS = 1000
"""T."""
BETA_START, BETA_END = 1e-4, 0.02

Prediction = Literal["noise", "velocity", "flow"]


class Schedule(NamedTuple):
    """Constants of the variance-preserving process, each (T,) float64."""

    signal: Tensor  # a_t
    noise: Tensor  # s_t
    log_beta: Tensor
    posterior_log_variance: Tensor  # of q(x_{t-1} | x_t, x_0); at t = 0, where it is 0, that of t = 1
    posterior_start: Tensor  # weight of x_0 in the posterior's mean
    posterior_now: Tensor  # weight of x_t in it

    def to(self, device: torch.device) -> Schedule:
        """The tables on a device; itself where they are there already."""
        return self if self.signal.device == device else Schedule(*(table.to(device) for table in self))

    def at(self, t: Tensor) -> Schedule:
        """The constants of timesteps (B,), on the same device, shaped (B, 1, 1, 1) float32."""
        return Schedule(*(table[t].float()[:, None, None, None] for table in self))


def linear_schedule() -> Schedule:
    """Betas from 1e-4 to 0.02 in T = 1000 equal steps (DDPM section 4)."""
    beta = torch.linspace(BETA_START, BETA_END, TRAIN_STEPS, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    variance = beta * (1 - before) / (1 - alpha_bar)
    return Schedule(
        alpha_bar.sqrt(),
        (1 - alpha_bar).sqrt(),
        beta.log(),
        torch.cat([variance[1:2], variance[1:]]).log(),
        beta * before.sqrt() / (1 - alpha_bar),
        (1 - before) * (1 - beta).sqrt() / (1 - alpha_bar),
    )


class Noised(NamedTuple):
    """Noisy latents, the time as networks are told it, and what the network should say."""

    latents: Tensor  # (B, D, h, w)
    timesteps: Tensor  # (B,) in [0, 1000)
    target: Tensor  # (B, D, h, w)


def add_noise(schedule: Schedule, prediction: Prediction, x0: Tensor, noise: Tensor, time: Tensor) -> Noised:
    """Move latents along their path. x0, noise: (B, D, h, w); time: (B,) in [0, 1], 1 only by rounding."""
    if prediction == "flow":
        t = time[:, None, None, None]
        return Noised(torch.lerp(x0, noise, t), time * TRAIN_STEPS, noise - x0)
    steps = (time * TRAIN_STEPS).long().clamp(max=TRAIN_STEPS - 1)
    at = schedule.at(steps)
    target = noise if prediction == "noise" else at.signal * noise - at.noise * x0
    return Noised(at.signal * x0 + at.noise * noise, steps, target)


def start_from(at: Schedule, prediction: Prediction, latents: Tensor, output: Tensor) -> Tensor:
    """x_0 that an estimate of noise or velocity implies; `at` holds the constants of each sample's timestep."""
    if prediction == "noise":
        return (latents - at.noise * output) / at.signal
    return at.signal * latents - at.noise * output


def variational_bound(
    schedule: Schedule, prediction: Prediction, x0: Tensor, noised: Noised, output: Tensor, variance: Tensor
) -> Tensor:
    """The term of the variational bound at each sample's timestep, in bits per dimension (IDDPM section 3.1) -> (B,).

    Args:
        output: (B, D, h, w), the estimate; pass it detached, so that this term trains the variance alone.
        variance: (B, D, h, w), v in log variance = (v + 1) / 2 log beta + (1 - v) / 2 log posterior variance, so that
            -1 and 1 stand for the two extremes (IDDPM Eq. 15).
    """
    at = schedule.at(noised.timesteps)
    share = (variance + 1) / 2
    log_variance = share * at.log_beta + (1 - share) * at.posterior_log_variance
    estimate = start_from(at, prediction, noised.latents, output)
    mean = at.posterior_start * estimate + at.posterior_now * noised.latents
    true_mean = at.posterior_start * x0 + at.posterior_now * noised.latents
    divergence = 0.5 * (
        log_variance
        - at.posterior_log_variance
        + (at.posterior_log_variance - log_variance).exp()
        - 1
        + (true_mean - mean).square() * (-log_variance).exp()
    )
    last = -_log_likelihood(x0, mean, 0.5 * log_variance)
    term = torch.where(noised.timesteps[:, None, None, None] == 0, last, divergence)
    return term.flatten(1).mean(1) / math.log(2)


def _log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log probability of a Gaussian's mass on the 1/127.5 around x, all mass beyond +-0.999 to the last bin (DDPM)."""
    inverse = (-log_std).exp()

    def below(edge: Tensor) -> Tensor:
        z = edge * inverse
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    upper, lower = below(x - mean + 1 / 255), below(x - mean - 1 / 255)
    mass = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return mass.clamp(min=1e-12).log()
