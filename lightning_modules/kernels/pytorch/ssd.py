"""State space duality in plain PyTorch: matrix products inside chunks, a recurrence between them; backward by autograd.

Shapes: B batch, L positions, H heads, P channels of a head, N states; c chunks of q positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

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
    log_decay = (dt_c * A).permute(0, 1, 3, 2).double().cumsum(-1)  # (B, c, H, q), since the chunk's start
    scaled = x_c * dt_c[..., None]

    # Inside the chunks: y_i = sum over j <= i of (C_i B_j) decay(j -> i) dt_j x_j.
    between = (log_decay[..., :, None] - log_decay[..., None, :]).to(x.dtype)  # (B, c, H, q, q)
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    weights = (C_c @ B_c.mT)[:, :, None] * torch.exp(between.masked_fill(later, -torch.inf))
    y = torch.einsum("bchij,bcjhp->bcihp", weights, scaled)

    # Between the chunks: the state each leaves behind, and what the next one sees of it.
    until_end = torch.exp((log_decay[..., -1:] - log_decay).to(x.dtype))  # (B, c, H, q)
    left_behind = torch.einsum("bcqn,bchq,bcqhp->bchpn", B_c, until_end, scaled)
    since_start = torch.exp(log_decay.to(x.dtype))
    whole = since_start[..., -1, None, None]
    state = x.new_zeros(batch, heads, width, B.shape[-1]) if initial_state is None else initial_state
    before = []
    for index in range(x_c.shape[1]):
        before.append(state)
        state = whole[:, index] * state + left_behind[:, index]
    if initial_state is not None or len(before) > 1:  # else the states before are all zero
        y = y + torch.einsum("bcqn,bchpn,bchq->bcqhp", C_c, torch.stack(before, 1), since_start)
    y = y.flatten(1, 2)[:, :length]
    return (y if D is None else y + D[:, None] * x), state

