"""One layer by itself: Transformer, attention sublayer, or any mixer (MaskMamba, Figure 7).

Shapes: B batch, L positions, C channels.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from experiments.benchmarks.cells.base import Phase, trainable_parameters
from experiments.benchmarks.config import TRANSFORMER_LAYERS, LayerBenchmarkConfig
from experiments.process import autocast
from experiments.run_config import RunConfig
from lightning_modules.layers.attention import SelfAttention
from lightning_modules.layers.block import Block
from lightning_modules.layers.config import MIXERS

SDPA = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
LANES = 16
"""Inner widths are multiples of this, as the kernels like them."""


def build_layer(config: LayerBenchmarkConfig) -> Block:
    """The layer (B, L, C) -> (B, L, C) that a configuration describes, without dropout."""
    if config.layer in TRANSFORMER_LAYERS:
        ratio = config.mlp_ratio if config.layer == "transformer" else 0.0
        return Block(config.width, SelfAttention(config.width, config.heads), ratio, dropout=0.0)
    return _mixer(config, matched_inner(config) if config.match == "parameters" else None)


def matched_inner(config: LayerBenchmarkConfig) -> int:
    """Inner width at which the Mamba layer's parameters come closest to those of a Transformer layer of its width."""

    def size(units: int) -> int:
        return trainable_parameters(_mixer(config, units * LANES))

    with torch.device("meta"):
        transformer = Block(config.width, SelfAttention(config.width, config.heads), config.mlp_ratio, dropout=0.0)
        wanted = trainable_parameters(transformer)
        low, high = 1, 2
        while size(high) < wanted:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if size(middle) < wanted else (low, middle)
        return LANES * min((low, high), key=lambda units: abs(size(units) - wanted))


def _mixer(config: LayerBenchmarkConfig, inner: int | None) -> Block:
    """A layer around the mixer, of an inner width other than its own if one is given."""
    settings = MIXERS[config.layer].config
    chosen = settings() if inner is None else settings(**{settings.inner_width: inner / config.width})
    mixer = MIXERS.target(config.layer)(config.width, chosen, "bidirectional")
    return Block(config.width, mixer, config.mamba_mlp_ratio, dropout=0.0)


class LayerCell:
    """Phases `forward` (no graph) and `training` (forward and backward, to weights and input)."""

    def __init__(self, config: RunConfig, device: torch.device):
        settings: LayerBenchmarkConfig = config.benchmark
        torch.manual_seed(config.seed)
        self._config, self._settings, self._device = config, settings, device
        self._layer = build_layer(settings).to(device)
        if settings.attention != "auto" and isinstance(self._layer.mixer, SelfAttention):
            self._layer.mixer.backend = "torch"  # what the choice below is made within
        if config.trainer.compile:
            self._layer.compile()
        self._x = torch.randn(settings.batch_size, settings.length, settings.width, device=device)
        self.parameters = trainable_parameters(self._layer)
        self.phases = {
            "forward": Phase(self._forward, "forward_seconds", "forward_memory_bytes"),
            "training": Phase(self._training, "training_seconds", "training_memory_bytes"),
        }

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        with ExitStack() as stack:
            if self._settings.attention != "auto":
                stack.enter_context(sdpa_kernel(SDPA[self._settings.attention]))
            stack.enter_context(autocast(self._config, self._device))
            return self._layer(x)

    def _forward(self) -> None:
        with torch.inference_mode():
            self._run(self._x)

    def _training(self) -> None:
        x = self._x.requires_grad_()
        y = self._run(x)
        torch.autograd.grad(y, [x, *self._layer.parameters()], torch.ones_like(y))
