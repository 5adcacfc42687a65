"""Stage 1: train a VQ autoencoder (VQGAN, arXiv 2012.09841; LlamaGen, arXiv 2406.06525, section 2.1).

Shapes: B batch, H x W pixels in [-1, 1], V codes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.base import TrainingModule
from lightning_modules.config import OptimConfig, ReconstructionConfig
from lightning_modules.tokenizers.vq import VQAutoencoder, to_uint8


class TokenizerModule(TrainingModule):
    """Reconstruction (pixels and edges) + codebook + commitment losses, straight-through estimator, revived codes."""

    model: VQAutoencoder

    def __init__(self, objective: ReconstructionConfig, model: VQAutoencoder, optim: OptimConfig, **training: Any):
        super().__init__(model, optim, **training)
        self.objective = objective
        self.register_buffer("used", torch.zeros(model.quantize.embedding.num_embeddings, dtype=torch.bool))

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Seed the batch's randomness; now and then revive unused codes."""
        super().on_train_batch_start(batch, batch_idx)
        every, step = self.objective.revive_every, self.global_step
        settling = step >= 0.9 * self.max_steps
        if every and step and step % every == 0 and not settling:
            self._revive(batch["image"])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """batch["image"]: (B, 3, H, W) -> scalar loss."""
        images = _shift(batch["image"], self.objective.shift)
        reconstruction, quantized = self.model(images)
        error = reconstruction.float() - images
        pixel, edge = error.abs().mean(), _edges(error)
        loss = (
            pixel
            + self.objective.edge_weight * edge
            + self.objective.codebook_weight * quantized.codebook_loss
            + self.objective.commitment_weight * quantized.commitment_loss
        )
        self.used[quantized.indices.flatten()] = True
        self.log_dict({"train/loss": loss, "train/pixel": pixel, "train/edge": edge}, prog_bar=True)
        return self.check_finite(loss)

    @torch.no_grad()
    def _revive(self, images: Tensor) -> None:
        """Put every unused code on a random latent of this batch."""
        unused = (~self.used).nonzero().flatten()
        if len(unused):
            z = self.model.latents(images).permute(0, 2, 3, 1).flatten(0, 2).float()
            picks = z[torch.randint(len(z), (len(unused),), device=z.device)]
            self.model.quantize.embedding.weight[unused] = F.normalize(picks, dim=-1)
        self.used.zero_()

    def on_validation_epoch_start(self) -> None:
        self._squared_error, self._pixels = 0.0, 0
        self._counts = torch.zeros(len(self.used), device=self.device)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Accumulate the squared error, in 8-bit-rounded pixels of [0, 1], and the use of each code."""
        images = batch["image"]
        tokens = self.sampling_model.encode(images)
        reconstruction = self.sampling_model.decode(tokens)
        error = (to_uint8(reconstruction).float() - to_uint8(images).float()) / 255
        self._squared_error += error.square().sum().item()
        self._pixels += error.numel()
        self._counts += torch.bincount(tokens.flatten(), minlength=len(self._counts))

    def on_validation_epoch_end(self) -> None:
        """Log PSNR (dB, over all pixels together), the share of codes used, and the perplexity of their use."""
        p = self._counts / self._counts.sum()
        metrics = {
            "val/psnr": -10 * math.log10(max(self._squared_error / self._pixels, 1e-10)),
            "val/codebook_usage": (self._counts > 0).float().mean(),
            "val/codebook_perplexity": torch.exp(torch.special.entr(p).sum()),
        }
        self.log_dict(metrics, prog_bar=True)


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
