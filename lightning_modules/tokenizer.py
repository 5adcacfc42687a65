"""Stage 1: train an autoencoder, VQ (VQGAN, arXiv 2012.09841) or KL (latent diffusion, 2112.10752, section 3.1).

Shapes: B batch, H x W pixels in [-1, 1], V codes.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.base import Network, TrainingModule
from lightning_modules.config import OptimConfig, ReconstructionConfig
from lightning_modules.images import rounded
from lightning_modules.tokenizers.emoji_kl import EmojiKL, Posterior
from lightning_modules.tokenizers.vq import Quantized, VQAutoencoder


def tokenizer_module(
    objective: ReconstructionConfig, model: EmojiKL | VQAutoencoder, *args: Any, **training: Any
) -> TrainingModule:
    """The module that trains an autoencoder of this kind."""
    if isinstance(model, EmojiKL):
        return KLModule(objective, model, *args, **training)
    return VQModule(objective, model, *args, **training)


class TokenizerModule(TrainingModule[Network]):
    """Reconstruction (pixels and edges), beside what the latents between encoder and decoder cost."""

    def __init__(self, objective: ReconstructionConfig, model: Network, optim: OptimConfig, **training: Any):
        super().__init__(model, optim, **training)
        self.objective = objective

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """batch["image"]: (B, 3, H, W) -> scalar loss."""
        images = _shift(batch["image"], self.objective.shift)
        reconstruction, between = self.model(images)
        error = reconstruction.float() - images
        pixel, edge = error.abs().mean(), _edges(error)
        loss = pixel + self.objective.edge_weight * edge + self._cost(between)
        self.log_dict({"train/loss": loss, "train/pixel": pixel, "train/edge": edge}, prog_bar=True)
        return self.watched(loss)

    @abstractmethod
    def _cost(self, between: Any) -> Tensor:
        """Of what the network returns beside the reconstruction, scalar."""

    def on_validation_epoch_start(self) -> None:
        self._error = torch.zeros(2, dtype=torch.float64, device=self.device)  # squared, and pixels

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Accumulate the squared error, in 8-bit-rounded pixels of [0, 1], and what is measured of the latents."""
        images = batch["image"]
        error = (rounded(self._reconstruct(images)).float() - rounded(images).float()) / 255
        squared = error.square().sum().double()
        self._error += torch.stack([squared, squared.new_tensor(error.numel())])

    @abstractmethod
    def _reconstruct(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> the same through the weights that are kept."""

    def on_validation_epoch_end(self) -> None:
        """Log PSNR (dB, over all pixels together), and what is measured of the latents."""
        squared, pixels = self.over_processes(self._error).tolist()
        psnr = -10 * math.log10(max(squared / pixels, 1e-10))
        self.log_dict({"val/psnr": psnr, **self._measured()}, prog_bar=True)

    @abstractmethod
    def _measured(self) -> dict[str, Any]:
        """Of the latents, over the validation."""


class VQModule(TokenizerModule[VQAutoencoder]):
    """Codebook and commitment losses, straight-through estimator, revived codes."""

    used: Tensor
    """(V,) bool: codes that this process used since the last revival."""

    def __init__(self, objective: ReconstructionConfig, model: VQAutoencoder, *args: Any, **training: Any):
        super().__init__(objective, model, *args, **training)
        self.register_buffer("used", torch.zeros(model.quantize.embedding.num_embeddings, dtype=torch.bool))

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Seed the batch's randomness; now and then, in the first batch of a step, revive unused codes."""
        super().on_train_batch_start(batch, batch_idx)
        if self._batch_of_step > 1:  # of an accumulated step: `used` was emptied with the first batch
            return
        every, step = self.objective.revive_every, self.global_step
        settling = step >= 0.9 * self.max_steps
        if every and step and step % every == 0 and not settling:
            self._revive(batch["image"])

    def _cost(self, between: Quantized) -> Tensor:
        self.used[between.indices.flatten()] = True
        return (
            self.objective.codebook_weight * between.codebook_loss
            + self.objective.commitment_weight * between.commitment_loss
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What all processes used, so that none of it counts as unused after a resumption. Collective."""
        checkpoint["state_dict"]["used"] = self.over_processes(self.used.float()) > 0

    @torch.no_grad()
    def _revive(self, images: Tensor) -> None:
        """Put every code that no process used on a random latent of this batch; rank 0's choice holds for all."""
        unused = (self.over_processes(self.used.float()) == 0).nonzero().flatten()
        if len(unused):
            z = self.model.latents(images).permute(0, 2, 3, 1).flatten(0, 2).float()
            picks = z[torch.randint(len(z), (len(unused),), device=z.device)]
            weight = self.model.quantize.embedding.weight
            weight[unused] = F.normalize(picks, dim=-1)
            if self.trainer.world_size > 1:  # DDP keeps gradients equal, not weights
                torch.distributed.broadcast(weight, src=0)
        self.used.zero_()

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._counts = torch.zeros(len(self.used), device=self.device)

    def _reconstruct(self, images: Tensor) -> Tensor:
        tokens = self.sampling_model.encode(images)
        self._counts += torch.bincount(tokens.flatten(), minlength=len(self._counts))
        return self.sampling_model.decode(tokens)

    def _measured(self) -> dict[str, Any]:
        """The share of codes used, and the perplexity of their use."""
        counts = self.over_processes(self._counts)
        p = counts / counts.sum()
        return {
            "val/codebook_usage": (counts > 0).float().mean(),
            "val/codebook_perplexity": torch.exp(torch.special.entr(p).sum()),
        }


class KLModule(TokenizerModule[EmojiKL]):
    """Divergence of the latents from a standard normal distribution; validation measures the scale of their means."""

    def _cost(self, between: Posterior) -> Tensor:
        divergence = between.divergence
        self.log("train/divergence", divergence)
        return self.objective.kl_weight * divergence

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._moments = torch.zeros(3, dtype=torch.float64, device=self.device)

    def _reconstruct(self, images: Tensor) -> Tensor:
        mean = self.sampling_model.posterior(images).mean
        values = mean.double()
        self._moments += torch.stack([values.new_tensor(values.numel()), values.sum(), values.square().sum()])
        return self.sampling_model.decode(mean)

    def _measured(self) -> dict[str, Any]:
        """The standard deviation of the latents, whose inverse becomes the network's scale."""
        count, total, squares = self.over_processes(self._moments).tolist()
        deviation = math.sqrt(max(squares / count - (total / count) ** 2, 1e-12))
        for network in (self.model, self.sampling_model):
            network.scale.fill_(1 / deviation)
        return {"val/latent_std": deviation}


def _edges(error: Tensor) -> Tensor:
    """Mean absolute difference between neighbours, (B, C, H, W) -> scalar."""
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def _shift(images: Tensor, most: int) -> Tensor:
    """Move every image by up to `most` pixels each way, the edge repeated."""
    if not most:
        return images
    height, width = images.shape[-2:]
    offsets = torch.randint(0, 2 * most + 1, (len(images), 2), device=images.device)
    rows = (torch.arange(height, device=images.device) + offsets[:, :1] - most).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + offsets[:, 1:] - most).clamp(0, width - 1)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
