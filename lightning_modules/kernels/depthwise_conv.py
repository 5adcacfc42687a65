"""Short depthwise convolution over a sequence, with optional SiLU: the convolution in front of every Mamba scan.

Shapes: B batch, L positions, C channels, k taps.
"""

from typing import Literal

import torch
from torch import Tensor

from lightning_modules import backends
from lightning_modules.kernels import conv_op, dispatch
from lightning_modules.kernels.cpp import depthwise_conv as cpp
from lightning_modules.kernels.layout import check_alike, in_dtype
from lightning_modules.kernels.reference import depthwise_conv as reference
from lightning_modules.kernels.stock import depthwise_conv as stock
from lightning_modules.kernels.triton import availability as triton

Padding = Literal["same", "causal", "anticausal"]


def depthwise_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: Padding = "same",
    activation: Literal["silu"] | None = "silu",
    backend: str | None = None,
) -> Tensor:
    """y[l] = activation(bias + sum_j weight[:, j] x[l + j - left]), zeros outside; channel-last, so no transposes.

    x: (B, L, C), weight: (C, k), bias: (C,) -> (B, L, C) in x's dtype.
    padding: "same" is symmetric (left = (k - 1) / 2, odd k), "causal" looks back (left = k - 1), "anticausal" ahead
    (left = 0).
    Differentiable once in all three; none may then come out of torch.inference_mode(), since the backward keeps them.
    Raises ValueError on shapes that do not fit, an empty batch or sequence, or an even k with padding="same".
    """
    _check(x, weight, bias, activation)
    pad_left = _pad_left(padding, weight.shape[1])
    x = in_dtype(x, dispatch.working_dtype(x.device.type, x.dtype))
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    channels, taps = weight.shape
    excluded = _excluded(channels, taps, pad_left)
    name = dispatch.choose(backends.DEPTHWISE_CONV1D, backend, x.device, x.dtype, excluded)
    weight, bias, silu = in_dtype(weight, wide), in_dtype(bias, wide), activation == "silu"
    if name == "reference":
        dispatch.record(backends.DEPTHWISE_CONV1D, name)
        return reference.depthwise_conv1d(x, weight, bias, pad_left, silu).to(x.dtype)
    if name == "causal_conv1d":
        dispatch.record(backends.DEPTHWISE_CONV1D, name)
        return stock.depthwise_conv1d(x, weight, bias, silu)
    return conv_op.depthwise_conv1d(x, weight, bias, pad_left, silu, name)


def _excluded(channels: int, taps: int, pad_left: int) -> dict[str, str]:
    """Back ends that have no such kernel -> the reason."""
    most = {"cpp": cpp.MAX_TAPS, "triton": triton.MAX_TAPS}
    reasons = {name: f"it takes up to {count} taps, not {taps}" for name, count in most.items() if taps > count}
    unfit = stock.unfit(channels, taps, pad_left)
    return reasons | ({"causal_conv1d": unfit} if unfit else {})


def _pad_left(padding: str, taps: int) -> int:
    if padding == "causal":
        return taps - 1
    if padding == "anticausal":
        return 0
    if padding != "same":
        raise ValueError(f"padding={padding!r} is not valid: choose 'same', 'causal' or 'anticausal'.")
    if taps % 2 == 0:
        raise ValueError(
            f"padding='same' needs an odd number of taps, not {taps}: an even kernel would be lopsided; "
            f"use {taps - 1} or {taps + 1} taps, or padding='causal'."
        )
    return (taps - 1) // 2


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> None:
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"x must be (batch, length, channels), none of them empty, not {tuple(x.shape)}.")
    if weight.ndim != 2 or weight.shape[0] != x.shape[2] or weight.shape[1] < 1:
        raise ValueError(f"weight must be (channels={x.shape[2]}, taps), not {tuple(weight.shape)}.")
    channels, taps = weight.shape
    check_alike({"weight": (weight, (channels, taps)), "bias": (bias, (channels,))}, x, "x")
    if activation not in ("silu", None):
        raise ValueError(f"activation={activation!r} is not valid: choose 'silu' or None.")
