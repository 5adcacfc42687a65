"""Selective scan as its definition: one Python step per position.

Shapes: B batch, K directions, L positions, C channels, N states.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    order: Tensor,
    *,
    softplus: bool,
    stack: bool,
) -> tuple[Tensor, Tensor]:
    """h <- exp(dt A) h + dt u B; y = <C, h> + D u, position after position (Mamba, Gu & Dao 2023, Eq. 2 and Algorithm 2).

    u: (B, 1 or K, L, C), delta: (B, K, L, C), A: (K, C, N), B, C: (B, K, L, N), D, delta_bias: (K, C), z: (B, L, C),
    initial_state: (B, K, C, N), order: (K, L) -> y (B, L, C), or (B, K, L, C) with `stack`; final state (B, K, C, N).
    """
    batch, directions, length, channels = delta.shape
    index = order.long().to(delta.device)[None, :, :, None]
    dt = delta if delta_bias is None else delta + delta_bias[:, None, :]
    dt = F.softplus(dt, threshold=torch.inf) if softplus else dt
    u = u.expand(batch, directions, length, channels)
    visited_u, visited_dt, visited_B, visited_C = (
        t.gather(2, index.expand(batch, -1, -1, t.shape[-1])) for t in (u, dt, B, C)
    )
    h = delta.new_zeros(batch, directions, channels, A.shape[-1]) if initial_state is None else initial_state
    outputs = []
    for step in range(length):
        dt_l, u_l = visited_dt[:, :, step, :, None], visited_u[:, :, step, :, None]
        h = torch.exp(dt_l * A) * h + dt_l * u_l * visited_B[:, :, step, None, :]
        outputs.append((h * visited_C[:, :, step, None, :]).sum(-1))
    y = torch.zeros_like(visited_u).scatter(2, index.expand(batch, -1, -1, channels), torch.stack(outputs, 2))
    y = y if D is None else y + D[:, None, :] * u
    y = y if stack else y.sum(1)
    if z is not None:
        y = y * F.silu(z.unsqueeze(1) if stack else z)
    return y, h
