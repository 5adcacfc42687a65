"""Scaled dot-product attention: PyTorch's, or the flash-attn package where it is installed.

Shapes: B batch, H heads, L queries, S keys, E head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules import backends
from lightning_modules.kernels import dispatch

EXPLICIT_LENGTH = 1024
"""Most queries for which the (L, S) scores are written out when training on a CPU in bfloat16; see `attend`."""
FLASH_WIDTH = 256
"""Widest head that flash-attn takes."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, backend: str | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(E)) v.

    q: (B, H, L, E); k, v: (B, H, S, E); mask: bool, broadcasts to (B, H, L, S), False where a key is not seen; a query
    that sees none gets zeros.
    causal: a position sees itself and those before it; instead of a mask, so that the flash kernels can be used.
    backend: `torch` (PyTorch's fused function, which picks flash, cuDNN, memory-efficient or plain), `flash_attn`,
        `reference`; None: choose.
    Raises ValueError where both a mask and causal are asked for, and where a mask is not bool.
    """
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, False where a key is not seen, not {mask.dtype}: compare it first.")
    if causal and mask is not None:
        raise ValueError("attend takes a mask or causal=True, not both: put the causal part into the mask.")
    excluded = {} if mask is None else {"flash_attn": "it takes no mask"}
    if q.shape[-1] > FLASH_WIDTH:
        excluded = {"flash_attn": f"it takes heads of up to {FLASH_WIDTH} channels, not {q.shape[-1]}"}
    name = dispatch.choose(backends.ATTENTION, backend, q.device, q.dtype, excluded)
    dispatch.record(backends.ATTENTION, name)
    if name == "flash_attn":
        return _flash(q, k, v, causal)
    # When training on a CPU in bfloat16 the two products are written out: the backward pass of PyTorch's fused kernel
    # took 2 to 6 times as long in this type (at B=64, H=5, L=65 and at B=32, H=12, L=257).
    on_cpu = backend is None and q.device.type == "cpu"
    slow_backward = on_cpu and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if name == "reference" or (slow_backward and q.shape[-2] <= EXPLICIT_LENGTH):
        return _explicit(q, k, v, mask, causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def _explicit(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    if mask is None:
        return scores.softmax(-1) @ v
    # A finite value, since the softmax of nothing but -inf, and its gradient, are NaN.
    y = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1) @ v
    return y.masked_fill(~mask.any(-1, keepdim=True), 0)


@torch.compiler.disable  # the package's autograd function cannot be traced
def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    from flash_attn import flash_attn_func

    return flash_attn_func(*(t.transpose(1, 2) for t in (q, k, v)), causal=causal).transpose(1, 2)
