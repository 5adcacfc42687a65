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
    log_decay = (dt_c * A).permute(0, 1, 3, 2)  # (B, c, H, q)
    since_start = log_decay.cumsum(-1)
    scaled = x_c * dt_c[..., None]

    # Inside the chunks: y_i = sum over j <= i of (C_i B_j) decay(j -> i) dt_j x_j.
    weights = (C_c @ B_c.mT)[:, :, None] * torch.exp(_segment_sums(log_decay))  # (B, c, H, q, q)
    y = torch.einsum("bchij,bcjhp->bcihp", weights, scaled)

    # Between the chunks: the state each leaves behind, and what the next one sees of it.
    until_end = torch.exp(_sums_after(log_decay))  # (B, c, H, q)
    left_behind = torch.einsum("bcqn,bchq,bcqhp->bchpn", B_c, until_end, scaled)
    whole = torch.exp(since_start[..., -1])[..., None, None]
    state = x.new_zeros(batch, heads, width, B.shape[-1]) if initial_state is None else initial_state
    before = []
    for index in range(x_c.shape[1]):
        before.append(state)
        state = whole[:, index] * state + left_behind[:, index]
    seen = torch.einsum("bcqn,bchpn,bchq->bcqhp", C_c, torch.stack(before, 1), torch.exp(since_start))
    y = (y + seen).flatten(1, 2)[:, :length]
    return (y if D is None else y + D[:, None] * x), state


def _segment_sums(values: Tensor) -> Tensor:
    """(..., q) -> (..., q, q): the sum of values[j + 1 .. i] for i >= j, -inf above the diagonal.

    Summed directly: differences of cumulative sums would cancel.
    """
    size = values.shape[-1]
    ones = torch.ones(size, size, dtype=torch.bool, device=values.device)
    spread = values[..., None].expand(*values.shape, size).masked_fill(~ones.tril(-1), 0)
    return spread.cumsum(-2).masked_fill(~ones.tril(), -torch.inf)


def _sums_after(values: Tensor) -> Tensor:
    """(..., q) -> (..., q): the sum of values[i + 1 ..]."""
    return F.pad(values[..., 1:].flip(-1).cumsum(-1).flip(-1), (0, 1))
