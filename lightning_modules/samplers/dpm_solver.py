"""Sampling by solving the probability-flow ODE with DPM-Solver++ (arXiv 2211.01095) through diffusers.

Shapes: B batch, D latent channels, h x w latent.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_modules.conditions import Condition, repeat_condition
from lightning_modules.noising import BETA_END, BETA_START, TRAIN_STEPS, Prediction
from lightning_modules.samplers.config import DPMSolverConfig
from lightning_modules.samplers.noise import Noise

PREDICTION = {"noise": "epsilon", "velocity": "v_prediction", "flow": "flow_prediction"}
"""diffusers' words for what a network estimates."""


class DiffusionGenerator(Protocol):
    """What the sampler needs of a generator."""

    config: Any

    def sampling_context(self, condition: Condition, drop: Tensor) -> Any:
        """Labels (B,) or text features, and who goes without (B,) bool -> the context of a call."""

    def __call__(self, latents: Tensor, context: Any, timesteps: Tensor) -> Tensor:
        """(B, D, h, w) at timesteps (B,) -> the estimate, (B, D, h, w), or (B, 2D, h, w) with its variance."""


class DPMSolver:
    """See the module; `config` holds the settings."""

    def __init__(self, config: DPMSolverConfig):
        self.config = config

    @torch.inference_mode()
    def __call__(
        self, generator: DiffusionGenerator, condition: Condition, noise: Noise, known: Tensor | None = None
    ) -> Tensor:
        """Draw latents.

        Args:
            generator: in eval mode.
            condition: of the B samples.
            noise: the batch's randomness: only the start is drawn, the path from there is deterministic.
            known: None; latents cannot be kept in part.

        Returns:
            latents (B, D, h, w) float32.

        Raises:
            ValueError: `known` is given.
        """
        if known is not None:
            raise ValueError("Inpainting keeps tokens; a diffusion model has none, so it cannot fill in an image.")
        c, device = generator.config, noise.keys.device
        guided = _Guided(generator, condition, len(noise.keys), self.config.guidance, device)
        scheduler = build_scheduler(self.config, c.prediction)
        scheduler.set_timesteps(self.config.steps, device=device)
        shape = (c.latent_channels, c.grid_size, c.grid_size)
        latents = noise.normal(c.latent_channels * c.grid_size**2).unflatten(-1, shape)
        for t, time in zip(scheduler.timesteps, told_times(scheduler, c.prediction), strict=True):
            latents = scheduler.step(guided(latents, time), t, latents).prev_sample
        return latents


class _Guided:
    """Classifier-free guidance (arXiv 2207.12598): u + s (c - u), from one doubled batch where s is not 1."""

    def __init__(
        self, generator: DiffusionGenerator, condition: Condition, count: int, scale: float, device: torch.device
    ):
        self.generator, self.scale = generator, scale
        drop = torch.zeros(count, dtype=torch.bool, device=device)
        if scale != 1:
            condition, drop = repeat_condition(condition), torch.cat([drop, ~drop])
        self.drop = drop
        self.context = generator.sampling_context(condition, drop)

    def __call__(self, latents: Tensor, time: Tensor) -> Tensor:
        """latents: (B, D, h, w), time: scalar -> the guided estimate, alike, float32; a learned variance left out."""
        if self.scale != 1:
            latents = torch.cat([latents, latents])
        output = self.generator(latents, self.context, time.expand(len(latents))).float()
        output = output[:, : latents.shape[1]]
        if self.scale == 1:
            return output
        conditional, unconditional = output.chunk(2)
        return torch.lerp(unconditional, conditional, self.scale)


def told_times(scheduler: Any, prediction: Prediction) -> Tensor:
    """The time of every step as the network was told it in training, (steps,) float32: of flow 1000 t with its
    fraction, which the scheduler's own timesteps lack."""
    if prediction == "flow":
        return (scheduler.sigmas[:-1] * TRAIN_STEPS).to(scheduler.timesteps.device)
    return scheduler.timesteps.float()


def build_scheduler(config: DPMSolverConfig, prediction: Prediction) -> Any:
    """diffusers' DPM-Solver++ for what the network estimates.

    Timesteps are spaced "trailing", the closest to the uniform times of the official code, and the last step goes to
    noise 0: stopping at the smallest noise of training instead is far off (`final_sigmas_type="sigma_min"`).
    """
    from diffusers import DPMSolverMultistepScheduler

    if prediction == "flow":
        path: dict[str, Any] = {"use_flow_sigmas": True}
    else:
        path = {
            "beta_start": BETA_START,
            "beta_end": BETA_END,
            "beta_schedule": "linear",
            "timestep_spacing": "trailing",
        }
    return DPMSolverMultistepScheduler(
        num_train_timesteps=TRAIN_STEPS, prediction_type=PREDICTION[prediction], solver_order=config.order, **path
    )
