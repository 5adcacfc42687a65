"""Generation token by token through a stack of Mamba-2 layers: all layers in one call where a back end has that.

The other back ends run the layers one by one, as `lightning_modules.layers.mamba2.Mamba2.step` writes them down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_modules.kernels import dispatch
from lightning_modules.kernels.cpp.decode import MAX_BATCH
from lightning_modules.kernels.cpp.mamba2_decode import Mamba2Decoder


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

    Arguments are those of `Mamba2Decoder`. Raises ValueError where a named back end cannot run this.
    """
    batch = len(final_shift)
    excluded = {"cpp": f"it takes up to {MAX_BATCH} samples, not {batch}"} if batch > MAX_BATCH else {}
    if final_shift.dtype != torch.float32:
        excluded = {"cpp": "its states are float32"}
    name = dispatch.choose(dispatch.MAMBA2_DECODE, backend, head.device, head.dtype, excluded)
    dispatch.record(dispatch.MAMBA2_DECODE, name)
    if name != "cpp":
        return None
    return Mamba2Decoder(layers, norm, final_shift, final_scale, head, epsilon)
