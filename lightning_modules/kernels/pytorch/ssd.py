"""State space duality in plain PyTorch: matrix products inside chunks, a recurrence between them.

Shapes: B batch, L positions, H heads, P channels of a head, N states; c chunks of q positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

CHUNK = 64


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See reference.ssd; Dao & Gu 2024, Section 6 and Listing 1. Stable: exponentials are of sums of dt A only."""
    batch, length, heads, width = x.shape
    chunk = min(CHUNK, length)
    missing = -length % chunk  # steps of length zero change nothing
    x_c, dt_c, B_c, C_c = (
        F.pad(t, (0, 0) * (t.ndim - 2) + (0, missing)).unflatten(1, (-1, chunk)) for t in (x, dt, B, C)
    )
    # Decays are differences of sums, which cancel: in float64 they are exact enough for float32.
    log_decay = (dt_c * A).mT.double().cumsum(-1)  # (B, c, H, q), since the chunk's start
    scaled = (x_c * dt_c[..., None]).transpose(2, 3).contiguous()  # (B, c, H, q, P)

    # Inside the chunks: y_i = sum over j <= i of (C_i B_j) decay(j -> i) dt_j x_j.
    y = _Inside.apply(log_decay, C_c @ B_c.mT, scaled)

    # Between the chunks: the state each leaves behind, and what the next one sees of it.
    until_end = torch.exp((log_decay[..., -1:] - log_decay).to(x.dtype))  # (B, c, H, q)
    left_behind = (scaled * until_end[..., None]).mT @ B_c[:, :, None]  # (B, c, H, P, N)
    since_start = torch.exp(log_decay.to(x.dtype))
    whole = since_start[..., -1, None, None]
    state = x.new_zeros(batch, heads, width, B.shape[-1]) if initial_state is None else initial_state
    before = []
    for index in range(x_c.shape[1]):
        before.append(state)
        state = whole[:, index] * state + left_behind[:, index]
    if initial_state is not None or len(before) > 1:  # else the states before are all zero
        y = y + since_start[..., None] * (C_c[:, :, None] @ torch.stack(before, 1).mT)
    y = y.transpose(2, 3).flatten(1, 2)[:, :length]
    return (y if D is None else y + D[:, None] * x), state


class _Inside(torch.autograd.Function):
    """Attention without softmax, its scores faded by the decay between two positions, by head.

    (B, c, H, q) float64 sums of log decays, (B, c, q, q) scores, (B, c, H, q, P) values -> (B, c, H, q, P). The
    backward pass is written out: most of the time goes into passes over (B, c, H, q, q); autograd makes more of them.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, log_decay: Tensor, scores: Tensor, values: Tensor) -> Tensor:
        decay = (log_decay[..., :, None] - log_decay[..., None, :]).to(scores.dtype)
        later = torch.ones(decay.shape[-2:], dtype=torch.bool, device=decay.device).triu(1)
        decay.masked_fill_(later, -torch.inf).exp_()
        ctx.save_for_backward(decay, scores, values)
        return (decay * scores[:, :, None]) @ values

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, received: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, scores, values = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's stub lacks it
        to_values = (decay * scores[:, :, None]).mT @ received
        to_weights = (received @ values.mT).mul_(decay)
        to_scores = to_weights.sum(2)
        pairs = to_weights.mul_(scores[:, :, None])  # gradient of the log decay from j to i, a difference of two sums
        to_log = pairs.sum(-1, dtype=torch.float64) - pairs.sum(-2, dtype=torch.float64)
        return to_log, to_scores, to_values
