"""Generation token by token through a Llama-style Transformer: all layers in one call where a back end has that.

The other back ends run the layers one by one, as `lightning_modules.generators.llamagen.Layer.step` writes them down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_modules.kernels import dispatch
from lightning_modules.kernels.cpp.decode import MAX_BATCH
from lightning_modules.kernels.cpp.transformer_decode import TransformerDecoder


def transformer_decoder(
    layers: Sequence[dict[str, Tensor]],
    norm: Tensor,
    head: Tensor,
    visible: Tensor,
    epsilon: float,
    backend: str | None = None,
) -> Callable[[Tensor, Tensor, int], Tensor] | None:
    """A function from the newest token's residual stream (B, M), rotation and position to logits (B, V), or None: run
    layer by layer.

    Arguments are those of `TransformerDecoder`. Raises ValueError where a named back end cannot run this.
    """
    batch = len(visible)
    excluded = {"cpp": f"it takes up to {MAX_BATCH} samples, not {batch}"} if batch > MAX_BATCH else {}
    if norm.dtype != torch.float32:
        excluded = {"cpp": "its residual stream is float32"}
    name = dispatch.choose(dispatch.TRANSFORMER_DECODE, backend, head.device, head.dtype, excluded)
    dispatch.record(dispatch.TRANSFORMER_DECODE, name)
    if name != "cpp":
        return None
    return TransformerDecoder(layers, norm, head, visible, epsilon)
