"""State space duality by mamba-ssm's Triton kernels.

Shapes: B batch, L positions, H heads, P channels of a head, N states.
"""

import torch
from torch import Tensor

CHUNK = 256
"""Positions per chunk, as in the package's own Mamba-2 layer."""


@torch.compiler.disable  # the package's autograd function cannot be traced
def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See reference.ssd."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(
        x, dt, A, B[:, :, None], C[:, :, None], CHUNK, D=D, initial_states=initial_state, return_final_states=True
    )
