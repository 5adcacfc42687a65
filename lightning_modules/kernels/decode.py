"""One step of generation, token by token, through a whole network: one call where a back end has one for all layers.

Elsewhere generators call their layers one by one, by `layers.mamba2.Mamba2.step` and `generators.llamagen.Layer.step`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_modules import backends
from lightning_modules.kernels import dispatch
from lightning_modules.kernels.cpp.decode import MAX_BATCH
from lightning_modules.kernels.cpp.mamba2_decode import Mamba2Decoder
from lightning_modules.kernels.cpp.transformer_decode import TransformerDecoder


def mamba2_decoder(
    layers: Sequence[dict[str, Tensor]],
    norm: Tensor,
    final_shift: Tensor,
    final_scale: Tensor,
    head: Tensor,
    epsilon: float,
    backend: str | None = None,
) -> Callable[[Tensor], Tensor] | None:
    """A function from the newest token's residual stream (B, M) to logits (B, V), or None: run layer by layer.

    Arguments are those of `Mamba2Decoder`. Raises ValueError where a back end named for this cannot run it.
    """
    if not _in_one_call(backends.MAMBA2_DECODE, backend, len(final_shift), final_shift, head):
        return None
    return Mamba2Decoder(layers, norm, final_shift, final_scale, head, epsilon)


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

    Arguments are those of `TransformerDecoder`. Raises ValueError where a back end named for this cannot run it.
    """
    if not _in_one_call(backends.TRANSFORMER_DECODE, backend, len(visible), norm, head):
        return None
    return TransformerDecoder(layers, norm, head, visible, epsilon)


def _in_one_call(operation: str, backend: str | None, batch: int, wide: Tensor, head: Tensor) -> bool:
    """Whether the back end for `operation` runs all layers in one call.

    Args:
        batch: B.
        wide: a tensor in the dtype of the residual stream.
        head: a tensor in the dtype of the matrices.
    """
    excluded = {"cpp": f"it takes up to {MAX_BATCH} samples, not {batch}"} if batch > MAX_BATCH else {}
    if wide.dtype != torch.float32:
        excluded = {"cpp": "its residual stream is float32"}
    name = dispatch.choose(operation, backend, head.device, head.dtype, excluded)
    dispatch.record(operation, name)
    return name == "cpp"
