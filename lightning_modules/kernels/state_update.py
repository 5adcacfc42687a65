"""One step of a selective scan and of a causal convolution, for generation token by token. Inference only.

Shapes: B batch, C channels, N states, k taps.
"""

from types import ModuleType
from typing import Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from lightning_modules import backends
from lightning_modules.kernels import dispatch, flops
from lightning_modules.kernels.cpp import state_update as cpp
from lightning_modules.kernels.layout import check_alike, in_dtype
from lightning_modules.kernels.reference import state_update as reference

# The definition in plain PyTorch is already as fast as PyTorch gets.
BACKENDS: dict[str, ModuleType] = {"cpp": cpp, "torch": reference, "reference": reference}

_library = torch.library.Library("ablate", "FRAGMENT")
_library.define(
    "selective_state_update(Tensor(a!) state, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D,"
    " Tensor? z, Tensor? delta_bias, bool softplus, str backend) -> Tensor"
)
_library.define(
    "depthwise_conv1d_update(Tensor(a!) window, Tensor x, Tensor weight, Tensor? bias, bool silu, str backend)"
    " -> Tensor"
)


def selective_state_update(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    softplus: bool = True,
    backend: str | None = None,
) -> Tensor:
    """h <- exp(dt A) h + dt u B; y = <C, h> + D u, gated by silu(z); `selective_scan` over one position.

    state: (B, C, N) contiguous, float32 (float64 with float64 inputs), updated in place; u, delta, z: (B, C);
    A: (C, N); B, C: (B, N); D, delta_bias: (C,). Returns y (B, C) in u's dtype (under autocast: the autocast dtype).
    Raises ValueError on shapes that do not fit, an unfit state, or inputs that want a gradient.
    """
    batch, channels, states = state.shape
    expected = {
        "u": (u, (batch, channels)),
        "delta": (delta, (batch, channels)),
        "A": (A, (channels, states)),
        "B": (B, (batch, states)),
        "C": (C, (batch, states)),
        "D": (D, (channels,)),
        "z": (z, (batch, channels)),
        "delta_bias": (delta_bias, (channels,)),
    }
    _check(expected, "state", state)
    dtype = dispatch.working_dtype(u.device.type, u.dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    _check_kept("state", state, wide)
    name = dispatch.choose(backends.SELECTIVE_STATE_UPDATE, backend, u.device, dtype)
    u, delta, B, C = (in_dtype(t, dtype) for t in (u, delta, B, C))
    A, z = in_dtype(A, wide), in_dtype(z, dtype)
    D, delta_bias = in_dtype(D, wide), in_dtype(delta_bias, wide)
    return torch.ops.ablate.selective_state_update(state, u, delta, A, B, C, D, z, delta_bias, softplus, name)


def depthwise_conv1d_update(
    window: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Literal["silu"] | None = "silu",
    backend: str | None = None,
) -> Tensor:
    """`depthwise_conv1d` with padding="causal" over one position.

    window: (B, k - 1, C) contiguous, in x's dtype, the inputs before x, oldest first (zeros at the start), updated in
    place; x: (B, C); weight: (C, k); bias: (C,). Returns (B, C).
    Raises ValueError on shapes that do not fit, an unfit window, or inputs that want a gradient.
    """
    batch, before, channels = window.shape
    expected = {"x": (x, (batch, channels)), "weight": (weight, (channels, before + 1)), "bias": (bias, (channels,))}
    _check(expected, "window", window)
    if activation not in ("silu", None):
        raise ValueError(f"activation={activation!r} is not valid: choose 'silu' or None.")
    dtype = dispatch.working_dtype(x.device.type, x.dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    _check_kept("window", window, dtype)
    name = dispatch.choose(backends.DEPTHWISE_CONV1D_UPDATE, backend, x.device, dtype)
    x, weight, bias = in_dtype(x, dtype), in_dtype(weight, wide), in_dtype(bias, wide)
    return torch.ops.ablate.depthwise_conv1d_update(window, x, weight, bias, activation == "silu", name)


def _check(expected: dict[str, tuple[Tensor | None, tuple[int, ...]]], kept: str, state: Tensor) -> None:
    if state.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{kept} wants a gradient, but single-step updates have none: use torch.no_grad().")
    check_alike(expected, state, kept)
    for name, (tensor, shape) in expected.items():
        if 0 in shape:
            raise ValueError(f"{name} must not be empty, but has shape {shape}.")
        if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} wants a gradient, but single-step updates have none: use torch.no_grad().")


def _check_kept(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype or not tensor.is_contiguous():
        found = tensor.dtype if tensor.is_contiguous() else f"strided {tensor.dtype}"
        raise ValueError(f"{name} must be contiguous {dtype}, since it is updated in place, not {found}.")


def _update(state: Tensor, *arguments) -> Tensor:
    dispatch.record(backends.SELECTIVE_STATE_UPDATE, arguments[-1])
    return BACKENDS[arguments[-1]].selective_state_update(state, *arguments[:-1])


def _update_conv(window: Tensor, *arguments) -> Tensor:
    dispatch.record(backends.DEPTHWISE_CONV1D_UPDATE, arguments[-1])
    return BACKENDS[arguments[-1]].depthwise_conv1d_update(window, *arguments[:-1])


_library.impl("selective_state_update", _update, "CompositeExplicitAutograd")
_library.impl("depthwise_conv1d_update", _update_conv, "CompositeExplicitAutograd")
for _name in ("selective_state_update", "depthwise_conv1d_update"):
    torch.library.register_fake(f"ablate::{_name}", lambda _, x, *__: x.new_empty(x.shape), lib=_library)


@register_flop_formula(torch.ops.ablate.selective_state_update)
def _flops(state, u, delta, A, B, C, D, z, *_, out_shape=None, **__) -> int:
    return flops.selective_state_update(*state, gate=z is not None)


@register_flop_formula(torch.ops.ablate.depthwise_conv1d_update)
def _conv_flops(window, x, weight, bias, silu, *_, out_shape=None, **__) -> int:
    return flops.depthwise_conv1d(x[0], 1, *weight, silu=silu)
