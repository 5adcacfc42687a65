"""What a residual stream needs between its products: norms, the ends of its branches, SwiGLU's activation.

Every back end but `cpp` is PyTorch's own functions; the C++ reads and writes each row once.

Shapes: B batch, L positions, C channels, H hidden width.
"""

import functools

import torch
from torch import Tensor

from lightning_modules import backends
from lightning_modules.kernels import dispatch, rows_op
from lightning_modules.kernels.layout import check_alike, in_dtype
from lightning_modules.kernels.reference import rows as reference
from lightning_modules.precision import without_autocast

SEEDS = 2**63 - 1


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    eps: float,
    gate: Tensor | None = None,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """u / rms(u) weight (1 + scale) + shift with u = x silu(gate), rms(u)^2 = mean(u^2) + eps over the channels
    (RMSNorm, arXiv 1910.07467; gated as in Mamba-2, modulated as in adaptive norms).

    x, gate: (B, L, C), or (B, C) for one position; weight: (C,); shift and scale, both or neither: (B, C). Returns x's
    shape in its dtype, but never less than that of shift and scale. Autocast changes nothing. Differentiable once.
    Raises ValueError on shapes that do not fit or are empty.
    """
    if x.ndim == 2:
        gate = None if gate is None else gate[:, None]
        y = rms_norm(x[:, None], weight, eps=eps, gate=gate, shift=shift, scale=scale, backend=backend)
        return y[:, 0]
    _check("x", x)
    batch, length, channels = x.shape
    expected = {
        "gate": (gate, (batch, length, channels)),
        "weight": (weight, (channels,)),
        "shift": (shift, (batch, channels)),
        "scale": (scale, (batch, channels)),
    }
    check_alike(expected, x, "x")
    if (shift is None) != (scale is None):
        raise ValueError("shift and scale go together: give both or neither.")
    if gate is not None:
        gate = in_dtype(gate, x.dtype)
    if shift is not None and scale is not None:
        x = in_dtype(x, torch.promote_types(x.dtype, torch.promote_types(shift.dtype, scale.dtype)))
        gate = in_dtype(gate, x.dtype)
    name = dispatch.choose(backends.RMS_NORM, backend, x.device, x.dtype)
    with without_autocast(x.device.type):
        if name != "cpp":
            dispatch.record(backends.RMS_NORM, name)
            return reference.rms_norm(x, weight, gate, shift, scale, eps)
        weight, shift, scale = (in_dtype(t, torch.float32) for t in (weight, shift, scale))
        factor = weight
        if scale is not None:
            factor = 1 + scale if weight is None else weight * (1 + scale)
        return rows_op.rms_norm(x, factor, gate, shift, eps)[0]


def residual(
    x: Tensor | None, h: Tensor, *, gate: Tensor | None = None, dropout: float = 0.0, backend: str | None = None
) -> Tensor:
    """x + gate dropout(h), the end of a residual branch; without x the branch alone.

    x, h: (B, L, C); gate: (B, C) -> (B, L, C) in the dtype they promote to. dropout: share of h's elements set to zero,
    the others growing by 1 / (1 - dropout), drawn from PyTorch's generator of the device. The C++ back end draws one
    seed from it and takes another mask than PyTorch would. Autocast changes nothing. Differentiable once.
    Raises ValueError on shapes that do not fit or are empty, or a share outside of 0 .. 1.
    """
    _check("h", h)
    batch, length, channels = h.shape
    check_alike({"x": (x, (batch, length, channels)), "gate": (gate, (batch, channels))}, h, "h")
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout={dropout} must lie in 0 .. 1.")
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in (x, h, gate) if t is not None))
    name = dispatch.choose(backends.RESIDUAL, backend, h.device, dtype)
    with without_autocast(h.device.type):
        if name != "cpp" or (gate is None and not dropout):  # a sum alone is PyTorch's everywhere
            dispatch.record(backends.RESIDUAL, name)
            return reference.residual(x, h, gate, dropout)
        if x is None or h.dtype != torch.bfloat16:  # the kernel widens h only as it adds it to x
            h = in_dtype(h, dtype)
        seed = torch.randint(SEEDS, (), device=h.device) if dropout else None
        return rows_op.residual(in_dtype(x, dtype), h, in_dtype(gate, torch.float32), seed, dropout)


def swiglu(gate_up: Tensor, *, backend: str | None = None) -> Tensor:
    """silu(gate) up (arXiv 2002.05202) of gates and ups that one product left side by side.

    gate_up: (B, L, 2 H), gates first -> (B, L, H). Differentiable once.
    Raises ValueError on a shape that is empty or odd.
    """
    _check("gate_up", gate_up)
    if gate_up.shape[-1] % 2:
        raise ValueError(f"gate_up must have as many gates as ups, not {gate_up.shape[-1]} channels in all.")
    name = dispatch.choose(backends.SWIGLU, backend, gate_up.device, gate_up.dtype)
    if name == "cpp":
        return rows_op.swiglu(gate_up)
    dispatch.record(backends.SWIGLU, name)
    return reference.swiglu(gate_up)


def _check(name: str, tensor: Tensor) -> None:
    if tensor.ndim != 3 or 0 in tensor.shape:
        raise ValueError(f"{name} must be (batch, length, channels), none of them empty, not {tuple(tensor.shape)}.")
