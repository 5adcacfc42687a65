"""Selective scan by mamba-ssm's CUDA kernel: one call per direction, over flipped or gathered copies.

That is how the published vision models run it, so this back end is also what the suite's own kernels are measured
against.

Shapes: B batch, K directions, L positions, C channels, N states.
"""

import torch
from torch import Tensor

from lightning_modules.kernels.scan_inputs import ScanInputs

MOST_STATES = 256
"""The most that the package's kernel takes."""


@torch.compiler.disable  # the package's autograd function cannot be traced
def selective_scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """y (B, L, C), or (B, K, L, C) with `stack`, and the final state (B, K, C, N), which carries no gradient."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    inputs.check_order()
    outputs, states = [], []
    for k in range(inputs.delta.shape[1]):
        visit, back = _permutation(inputs, k)
        u = inputs.u[:, k if inputs.u.shape[1] > 1 else 0]
        y, state = selective_scan_fn(
            *(_channels_first(t, visit) for t in (u, inputs.delta[:, k])),
            inputs.A[k],
            *(_channels_first(t, visit) for t in (inputs.B[:, k], inputs.C[:, k])),
            D=None if inputs.D is None else inputs.D[k],
            z=None if inputs.z is None else _channels_first(inputs.z, visit),
            delta_bias=None if inputs.delta_bias is None else inputs.delta_bias[k],
            delta_softplus=inputs.softplus,
            return_last_state=True,
        )
        outputs.append(_reorder(y.mT, back))
        states.append(state.detach().float())
    y = torch.stack(outputs, 1) if inputs.stack else torch.stack(outputs).sum(0)
    return y, torch.stack(states, 1)


Order = Tensor | bool
"""Positions (L,), or True for last to first, False for first to last."""


def _permutation(inputs: ScanInputs, k: int) -> tuple[Order, Order]:
    """The order in which direction k visits the positions, and the one that puts its outputs back."""
    if inputs.order is None:
        return inputs.reverse[k], inputs.reverse[k]
    order = inputs.order[k].long()
    return order, order.argsort()


def _reorder(x: Tensor, order: Order) -> Tensor:
    """(B, L, C) in another order of positions."""
    if isinstance(order, Tensor):
        return x[:, order]
    return x.flip(1) if order else x


def _channels_first(x: Tensor, order: Order) -> Tensor:
    """(B, L, C) -> (B, C, L) contiguous, in another order of positions."""
    return _reorder(x, order).mT.contiguous()
