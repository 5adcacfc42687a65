"""Selective scan of Mamba over one or several directions at once.

Shapes: B batch, K directions, L positions, C channels, N states.
"""

import functools
from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor

from lightning_modules import backends
from lightning_modules.kernels import dispatch, scan_op
from lightning_modules.kernels.layout import check_alike, in_dtype
from lightning_modules.kernels.reference import selective_scan as reference
from lightning_modules.kernels.scan_inputs import ScanInputs
from lightning_modules.kernels.stock import selective_scan as stock

Direction = Literal["forward", "reverse"]
DIRECT = {"reference": reference.selective_scan, "mamba_ssm": stock.selective_scan}
"""Back ends that bring their own derivatives; the others run behind one operator."""


@overload
def selective_scan(
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
    directions: Sequence[Direction] = ("forward",),
    order: Tensor | None = None,
    merge: Literal["sum", "stack"] = "sum",
    initial_state: Tensor | None = None,
    return_final_state: Literal[False] = False,
    backend: str | None = None,
) -> Tensor: ...
@overload
def selective_scan(
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
    directions: Sequence[Direction] = ("forward",),
    order: Tensor | None = None,
    merge: Literal["sum", "stack"] = "sum",
    initial_state: Tensor | None = None,
    return_final_state: Literal[True],
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...
def selective_scan(
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
    directions: Sequence[Direction] = ("forward",),
    order: Tensor | None = None,
    merge: Literal["sum", "stack"] = "sum",
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """h <- exp(dt A) h + dt u B, y = <C, h> + D u with dt = softplus(delta + delta_bias), gated by silu(z).

    Source: Mamba (Gu & Dao 2023), Section 3.2 and Algorithm 2, with B discretised as in the official code.

    Every tensor is indexed by storage position; a direction only changes the order in which positions are visited, so
    callers never flip or gather anything.

    u: (B, L, C) shared by the directions, or (B, K, L, C); delta: (B, K, L, C); A: (K, C, N); B, C: (B, K, L, N);
    D, delta_bias: (K, C); z: (B, L, C), whose gate multiplies every direction's output.
    With K = 1 the K axis may be left out.
    directions: "forward" or "reverse" per direction; a single entry holds for all.
    order: int32 or int64 (K, L), on the device of the other tensors, one permutation of the positions per direction,
    instead of `directions`.
    merge: "sum" adds the directions, y (B, L, C); "stack" keeps them, y (B, K, L, C).
    initial_state: (B, K, C, N); return_final_state adds the state after the last visited position.
    Returns y in the common dtype of u, delta, B, C and z (under autocast: the autocast dtype); states are float32, or
    float64 for float64 inputs. Differentiable once in every floating tensor; none may then come out of
    torch.inference_mode(), since the backward keeps them all.
    Raises ValueError on shapes that do not fit, an empty batch or sequence, and unknown names.
    """
    u, delta, A, B, C, D, delta_bias, initial_state = _with_directions(u, delta, A, B, C, D, delta_bias, initial_state)
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    if merge not in ("sum", "stack"):
        raise ValueError(f"merge={merge!r} is not valid: choose 'sum' or 'stack'.")
    reverse = _reversals(directions, order, delta)
    dtype = _activation_dtype(u, delta, B, C, z)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    u, delta, B, C = (in_dtype(t, dtype) for t in (u, delta, B, C))
    A, z = in_dtype(A, wide), in_dtype(z, dtype)
    D, delta_bias, initial_state = (in_dtype(t, wide) for t in (D, delta_bias, initial_state))
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    training = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    excluded = {"mamba_ssm": "its final state has no gradient"} if return_final_state and training else {}
    if initial_state is not None:
        excluded = {"mamba_ssm": "it always starts from a zero state"}
    if A.shape[2] > stock.MOST_STATES:
        excluded = {"mamba_ssm": f"it takes up to {stock.MOST_STATES} states, not {A.shape[2]}"}
    # The package takes one call per direction, over flipped or gathered copies; the suite's kernel does without.
    behind = {"mamba_ssm": "triton"} if order is not None or delta.shape[1] > 1 or any(reverse) else {}
    name = dispatch.choose(backends.SELECTIVE_SCAN, backend, u.device, dtype, excluded, behind)
    if name in DIRECT:
        dispatch.record(backends.SELECTIVE_SCAN, name)
        y, state = DIRECT[name](ScanInputs(*tensors, order, reverse, softplus, merge == "stack"))
        return (y.to(dtype), state) if return_final_state else y.to(dtype)
    y, state, _, _ = scan_op.selective_scan(
        *tensors, order, reverse, softplus, merge == "stack", training, return_final_state, name
    )
    return (y, state) if return_final_state else y


def _activation_dtype(*tensors: Tensor | None) -> torch.dtype:
    """What u, delta, B, C and z are brought to: the dtype they promote to, under autocast its own."""
    present = [t for t in tensors if t is not None]
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in present))
    return dispatch.working_dtype(present[0].device.type, dtype)


def _with_directions(u, delta, A, B, C, D, delta_bias, initial_state):
    """Put the K axis where K = 1 left it out."""
    u = u.unsqueeze(1) if u.ndim == 3 else u
    delta, B, C = (t.unsqueeze(1) if t.ndim == 3 else t for t in (delta, B, C))
    A = A.unsqueeze(0) if A.ndim == 2 else A
    D, delta_bias = (t.unsqueeze(0) if t is not None and t.ndim == 1 else t for t in (D, delta_bias))
    if initial_state is not None and initial_state.ndim == 3:
        initial_state = initial_state.unsqueeze(1)
    return u, delta, A, B, C, D, delta_bias, initial_state


def _reversals(directions: Sequence[str], order: Tensor | None, delta: Tensor) -> list[bool]:
    """Whether each direction runs backwards; checks `order` where it takes their place."""
    _, count, length, _ = delta.shape
    if order is not None:
        if tuple(directions) != ("forward",):
            raise ValueError("Give either directions or order, not both: order says itself how each direction runs.")
        if order.shape != (count, length):
            raise ValueError(f"order must be (directions={count}, length={length}), not {tuple(order.shape)}.")
        if order.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"order must be int32 or int64, not {order.dtype}.")
        if order.device.type != delta.device.type:
            raise ValueError(
                f"order is on {order.device.type}, delta on {delta.device.type}: move it there once, before the scans."
            )
    unknown = [d for d in directions if d not in ("forward", "reverse")]
    if unknown:
        raise ValueError(f"directions has {unknown[0]!r}: choose from 'forward' and 'reverse'.")
    if len(directions) not in (1, count):
        raise ValueError(f"directions names {len(directions)} directions where the tensors hold {count}.")
    reverse = [d == "reverse" for d in directions]
    return reverse if len(reverse) == count else reverse * count


def _check(u, delta, A, B, C, D, z, delta_bias, initial_state) -> None:
    if delta.ndim != 4 or 0 in delta.shape:
        raise ValueError(f"delta must be (batch, directions, length, channels), none empty, not {tuple(delta.shape)}.")
    batch, count, length, channels = delta.shape
    if A.ndim != 3 or A.shape[:2] != (count, channels) or A.shape[2] < 1:
        raise ValueError(f"A must be (directions={count}, channels={channels}, states), not {tuple(A.shape)}.")
    states = A.shape[2]
    expected = {
        "A": (A, (count, channels, states)),
        "u": (u, (batch, u.shape[1] if u.ndim == 4 and u.shape[1] in (1, count) else count, length, channels)),
        "B": (B, (batch, count, length, states)),
        "C": (C, (batch, count, length, states)),
        "D": (D, (count, channels)),
        "z": (z, (batch, length, channels)),
        "delta_bias": (delta_bias, (count, channels)),
        "initial_state": (initial_state, (batch, count, channels, states)),
    }
    check_alike(expected, delta, "delta and A")
