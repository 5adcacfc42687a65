"""M-Mamba: aMUSEd's ends around a stack of cross-scan layers over words and image (M-Mamba slides 8, 11, 12)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightning_modules.generators.configs.mmamba import MMambaConfig
from lightning_modules.generators.muse import Muse, MuseContext
from lightning_modules.layers.cross_attention import KeysValues
from lightning_modules.layers.cross_scan_layer import AdaptiveNorm, CrossScanLayer
from lightning_modules.layers.module_list import ModuleList


class MMamba(Muse):
    """A stack of `CrossScanLayer`."""

    def __init__(self, config: MMambaConfig):
        super().__init__(config, layers=0, ff_width=config.width)
        self.layers: ModuleList[CrossScanLayer] = ModuleList(
            CrossScanLayer(config, read=i < config.depth - 1) for i in range(config.depth)
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As `Muse`, and the layers' adaptive scales and shifts at 0."""
        super().reset_parameters()
        for module in self.layers.modules():
            if isinstance(module, AdaptiveNorm) and module.linear is not None:
                nn.init.zeros_(module.linear.weight)

    def _projected(self, text: Tensor) -> Iterator[tuple[nn.Module, KeysValues]]:
        yield from super()._projected(text)
        for layer in self.layers:
            if layer.attention is not None:
                yield layer.attention, layer.attention.keys_values(text)
            if layer.updates_text:  # the image enters the words of the next one
                return

    def stack(self, x: Tensor, context: MuseContext) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        text = context.text
        for layer in self.layers:
            words = (
                None if context.projected is None or layer.attention is None else context.projected.get(layer.attention)
            )
            text, x = self.run_layer(layer, text, x, context.pooled, context.mask, words)
        return x
