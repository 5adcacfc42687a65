"""Selective scan as its definition: one Python step per position, differentiated by autograd, as often as wanted.

Shapes: B batch, K directions, L positions, C channels, N states.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.kernels.scan_inputs import ScanInputs


def selective_scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """h <- exp(dt A) h + dt u B; y = <C, h> + D u, position after position (Mamba, Gu & Dao 2023, Algorithm 2).

    Returns y, (B, L, C) or stacked (B, K, L, C), and the final state (B, K, C, N), in the wider precision of A and u.
    Raises ValueError where `order` is no permutation of the positions (a compiled graph does not look).
    """
    inputs.check_order()
    wide = torch.promote_types(inputs.A.dtype, inputs.u.dtype)
    inputs = inputs._replace(
        **{
            name: tensor.to(wide)
            for name in ("u", "delta", "B", "C", "z")
            if (tensor := getattr(inputs, name)) is not None
        }
    )
    batch, directions, length, channels = inputs.delta.shape
    order = inputs.visiting_order()[None, :, :, None]
    dt = inputs.delta if inputs.delta_bias is None else inputs.delta + inputs.delta_bias[:, None, :]
    dt = softplus(dt) if inputs.softplus else dt
    u = inputs.u.expand(batch, directions, length, channels)
    visited_u, visited_dt, visited_B, visited_C = (
        t.gather(2, order.expand(batch, -1, -1, t.shape[-1])) for t in (u, dt, inputs.B, inputs.C)
    )
    h = dt.new_zeros(inputs.state_shape) if inputs.initial_state is None else inputs.initial_state
    outputs = []
    for step in range(length):
        dt_l, u_l = visited_dt[:, :, step, :, None], visited_u[:, :, step, :, None]
        h = torch.exp(dt_l * inputs.A) * h + dt_l * u_l * visited_B[:, :, step, None, :]
        outputs.append((h * visited_C[:, :, step, None, :]).sum(-1))
    y = torch.zeros_like(visited_u).scatter(2, order.expand(batch, -1, -1, channels), torch.stack(outputs, 2))
    y = y if inputs.D is None else y + inputs.D[:, None, :] * u
    y = y if inputs.stack else y.sum(1)
    if inputs.z is not None:
        y = y * F.silu(inputs.z.unsqueeze(1) if inputs.stack else inputs.z)
    return y, h


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact in any precision: torch's own turns linear at a threshold chosen for float32."""
    return torch.logaddexp(x, x.new_zeros(()))
