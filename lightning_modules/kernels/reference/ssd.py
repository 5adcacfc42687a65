"""State space duality (Mamba-2) as its definition: one Python step per position, differentiated by autograd.

Shapes: B batch, L positions, H heads, P channels of a head, N states.
"""

import torch
from torch import Tensor


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """S <- exp(dt A) S + dt x B^T; y = S C + D x (Dao & Gu 2024, Eq. 2 with scalar A per head).

    x: (B, L, H, P), dt: (B, L, H) positive, A, D: (H,), B, C: (B, L, N), one group -> y (B, L, H, P), S (B, H, P, N).
    """
    batch, length, heads, width = x.shape
    state = x.new_zeros(batch, heads, width, B.shape[-1]) if initial_state is None else initial_state
    outputs = []
    for step in range(length):
        decay = torch.exp(dt[:, step] * A)[..., None, None]
        state = decay * state + (dt[:, step, :, None] * x[:, step])[..., None] * B[:, step, None, None, :]
        outputs.append((state * C[:, step, None, None, :]).sum(-1))
    y = torch.stack(outputs, 1)
    return (y if D is None else y + D[:, None] * x), state
