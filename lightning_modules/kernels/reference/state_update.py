"""Single-step updates as their definitions; in plain PyTorch they are also the back end `torch`.

Shapes: B batch, C channels, N states, k taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.kernels.reference.selective_scan import softplus as stable_softplus


def selective_state_update(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    """h <- exp(dt A) h + dt u B; y = <C, h> + D u, gated by silu(z): one position of a selective scan.

    state: (B, C, N), updated in place; u, delta, z: (B, C); A: (C, N); B, C: (B, N); D, delta_bias: (C,) -> (B, C).
    """
    wide_u, dt = u.to(A.dtype), delta.to(A.dtype)
    dt = dt if delta_bias is None else dt + delta_bias
    dt = stable_softplus(dt) if softplus else dt
    decay = torch.exp(dt[..., None] * A)
    state.mul_(decay).add_((dt * wide_u)[..., None] * B.to(A.dtype)[:, None])
    y = (state * C.to(A.dtype)[:, None]).sum(-1)
    y = y if D is None else y + D * wide_u
    y = y if z is None else y * F.silu(z.to(A.dtype))
    return y.to(u.dtype)


def depthwise_conv1d_update(window: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """One position of a causal depthwise convolution.

    window: (B, k - 1, C), the inputs before x, oldest first, updated in place; x: (B, C); weight: (C, k) -> (B, C).
    """
    inputs = torch.cat([window, x[:, None]], 1)
    window.copy_(inputs[:, 1:])
    y = (inputs.to(weight.dtype) * weight.T).sum(1)
    y = y if bias is None else y + bias
    return (F.silu(y) if silu else y).to(x.dtype)
