"""State space duality, the core of Mamba-2: scalar decay per head, states shared by the channels of a head.

Shapes: B batch, L positions, H heads, P channels of a head, N states.
"""

from typing import Literal, overload

import torch
from torch import Tensor

from lightning_modules import backends
from lightning_modules.kernels import dispatch, ssd_op
from lightning_modules.kernels.layout import check_alike
from lightning_modules.kernels.reference import ssd as reference
from lightning_modules.kernels.reference.selective_scan import softplus as stable_softplus
from lightning_modules.kernels.stock import ssd as stock
from lightning_modules.precision import without_autocast

DIRECT = {"mamba_ssm": stock.ssd, "reference": reference.ssd}
"""Back ends that bring their own derivatives; the others run behind an operator."""


@overload
def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    softplus: bool = True,
    direction: Literal["forward", "reverse"] = "forward",
    initial_state: Tensor | None = None,
    return_final_state: Literal[False] = False,
    backend: str | None = None,
) -> Tensor: ...
@overload
def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    softplus: bool = True,
    direction: Literal["forward", "reverse"] = "forward",
    initial_state: Tensor | None = None,
    return_final_state: Literal[True],
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...
def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    softplus: bool = True,
    direction: Literal["forward", "reverse"] = "forward",
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """S <- exp(dt A) S + dt x B^T; y = S C + D x with dt = softplus(delta + delta_bias) (Dao & Gu 2024, Section 6).

    x: (B, L, H, P); delta: (B, L, H); A, D, delta_bias: (H,); B, C: (B, L, N), one group; initial_state: (B, H, P, N).
    Tensors are indexed by storage position; "reverse" visits the last position first.
    Returns y (B, L, H, P) in x's dtype (under autocast: the autocast dtype), and with return_final_state the state
    after the last visited position, float32 or float64. Computed in float32 (on a GPU that may round the factors of its
    products to TensorFloat-32, if the process allows that), or float64 for float64 inputs. Differentiable once;
    no input may then come out of torch.inference_mode(), since the backward keeps them all.
    Raises ValueError on shapes that do not fit or are empty, or an unknown direction.
    """
    _check(x, delta, A, B, C, D, delta_bias, initial_state)
    if direction not in ("forward", "reverse"):
        raise ValueError(f"direction={direction!r} is not valid: choose 'forward' or 'reverse'.")
    dtype = dispatch.working_dtype(x.device.type, x.dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    name = dispatch.choose(backends.SSD, backend, x.device, dtype)
    with without_autocast(x.device.type):
        narrow = dtype if name == "mamba_ssm" else wide  # its matrix products run on tensor cores
        x, B, C = (t.to(narrow) for t in (x, B, C))
        delta, A = delta.to(wide), A.to(wide)
        D, bias, state = (None if t is None else t.to(wide) for t in (D, delta_bias, initial_state))
        dt = delta if bias is None else delta + bias
        dt = stable_softplus(dt) if softplus else dt
        if direction == "reverse":
            x, dt, B, C = (t.flip(1) for t in (x, dt, B, C))
        if name in DIRECT:
            dispatch.record(backends.SSD, name)
            y, state = DIRECT[name](x, dt, A, B, C, D, state)
        else:
            given = (x, dt, A, B, C, D, state)
            training = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
            y, state, *_ = ssd_op.ssd(*given, training, return_final_state, name)
        y = (y.flip(1) if direction == "reverse" else y).to(dtype)
    return (y, state) if return_final_state else y


def ssd_state_update(
    state: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    softplus: bool = True,
) -> Tensor:
    """`ssd` over one position, for generation token by token. Plain PyTorch on every device.

    state: (B, H, P, N), float32, updated in place; x: (B, H, P); delta: (B, H); A, D, delta_bias: (H,); B, C: (B, N).
    Returns y (B, H, P) in x's dtype.
    Raises ValueError on shapes that do not fit, or inputs that want a gradient.
    """
    _check(x.unsqueeze(1), delta.unsqueeze(1), A, B.unsqueeze(1), C.unsqueeze(1), D, delta_bias, state)
    given = (state, x, delta, A, B, C, D, delta_bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given):
        raise ValueError("An input wants a gradient, but single-step updates have none: use torch.no_grad().")
    dispatch.record(backends.SSD, "torch")
    dt = delta.to(state.dtype) if delta_bias is None else delta.to(state.dtype) + delta_bias
    dt = stable_softplus(dt) if softplus else dt
    wide = x.to(state.dtype)
    # The state is the largest tensor of a step: no product of its size is written in between.
    state.mul_(torch.exp(dt * A)[..., None, None])
    state.addcmul_((dt[..., None] * wide)[..., None], B.to(state.dtype)[:, None, None, :])
    y = (state @ C.to(state.dtype)[:, None, :, None]).squeeze(-1)
    return (y if D is None else y + D[:, None] * wide).to(x.dtype)


def _check(x, delta, A, B, C, D, delta_bias, initial_state) -> None:
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"x must be (batch, length, heads, channels of a head), none empty, not {tuple(x.shape)}.")
    batch, length, heads, width = x.shape
    if B.ndim != 3 or B.shape[:2] != (batch, length) or B.shape[2] < 1:
        raise ValueError(f"B must be (batch={batch}, length={length}, states), not {tuple(B.shape)}.")
    states = B.shape[2]
    expected = {
        "delta": (delta, (batch, length, heads)),
        "A": (A, (heads,)),
        "B": (B, (batch, length, states)),
        "C": (C, (batch, length, states)),
        "D": (D, (heads,)),
        "delta_bias": (delta_bias, (heads,)),
        "initial_state": (initial_state, (batch, heads, width, states)),
    }
    check_alike(expected, x, "x and B")
