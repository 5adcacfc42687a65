"""What networks made of a stack of layers share: calling a layer, and the first weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

INIT_STD = 0.02
"""Standard deviation that tables, and in some networks linear maps, start with."""


class LayerStack(nn.Module):
    """A network whose `config` has `gradient_checkpointing`."""

    config: Any

    def run_layer(self, layer: Callable[..., Any], *inputs: Any) -> Any:
        """Call a layer; with `gradient_checkpointing` its activations are computed again in the backward pass."""
        if self.config.gradient_checkpointing and self.training:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


@torch.no_grad()
def reset_linear_and_tables(network: nn.Module) -> None:
    """Linear layers Xavier-uniform with zero bias, tables normal(0, 0.02)."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=INIT_STD)
