"""The selective SSM of Mamba (arXiv 2312.00752, section 3.2) for one or several scan directions of one sequence.

Shapes: B batch, K directions, L positions, D channels, N states, R rank of dt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_modules.kernels import linear, selective_scan
from lightning_modules.kernels.selective_scan import Direction

Scan = Literal["bidirectional", "forward", "reverse"]
SCANS: dict[str, tuple[Direction, ...]] = {
    "bidirectional": ("forward", "reverse"),
    "forward": ("forward",),
    "reverse": ("reverse",),
}
DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4
NO_TIME = -1e4
"""A value of dt before bias and softplus for which dt is exactly zero: the state passes such a position unchanged."""


def without_padding(x: Tensor, key_mask: Tensor | None) -> Tensor:
    """(B, L, C) with zeros where the mask (B, L) is False, so that convolutions carry nothing out of there."""
    return x if key_mask is None else x * key_mask[..., None]


def draw_dt_bias(bias: Tensor) -> None:
    """Fill `bias` (any shape) in place so that softplus(bias) is log-uniform in [1e-3, 1e-1], Mamba's start of dt."""
    log_dt = torch.rand_like(bias) * (math.log(DT_MAX) - math.log(DT_MIN)) + math.log(DT_MIN)
    dt = log_dt.exp().clamp(min=DT_FLOOR)
    bias.copy_(dt + torch.log(-torch.expm1(-dt)))


class SelectiveSSM(nn.Module):
    """u -> y: dt, B and C from u by projection, then the scan of each direction, summed.

    Args:
        width: D.
        d_state: N.
        directions: "forward" or "reverse" for each of the K directions; with an order in `forward`, only their number
            counts. Positions are never flipped in memory.
        share_projections: the directions share x_proj, dt_proj and the bias of dt, and D (Vim v1; own A).
        share_decay: they share A as well.
        model_width: the rank R of dt is ceil(model_width / 16).
    """

    def __init__(
        self,
        width: int,
        d_state: int,
        directions: Sequence[Direction],
        *,
        model_width: int,
        share_projections: bool = False,
        share_decay: bool = False,
    ):
        super().__init__()
        self.directions = tuple(directions)
        self.dt_rank = math.ceil(model_width / 16)
        self.d_state = d_state
        k = 1 if share_projections else len(self.directions)
        k_decay = 1 if share_decay else len(self.directions)
        self.x_proj = nn.Parameter(torch.empty(k, self.dt_rank + 2 * d_state, width))
        self.dt_proj = nn.Parameter(torch.empty(k, width, self.dt_rank))
        self.dt_bias = nn.Parameter(torch.empty(k, width))
        self.A_log = nn.Parameter(torch.empty(k_decay, width, d_state))
        self.D = nn.Parameter(torch.ones(k, width))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Mamba's initialisation: A = -(1..N), dt log-uniform in [1e-3, 1e-1] after the softplus."""
        nn.init.uniform_(self.x_proj, -(self.x_proj.shape[-1] ** -0.5), self.x_proj.shape[-1] ** -0.5)
        nn.init.uniform_(self.dt_proj, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        draw_dt_bias(self.dt_bias)
        self.A_log.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_log))

    def forward(
        self,
        u: Tensor,
        z: Tensor | None = None,
        *,
        order: Tensor | None = None,
        merge: Literal["sum", "stack"] = "sum",
        skip: Tensor | None = None,
        sources: Sequence[Tensor] | None = None,
    ) -> Tensor | list[Tensor]:
        """Scan.

        Args:
            u: (B, L, D) or, one input per direction, (B, K, L, D).
            z: (B, L, D) gate silu(z).
            order: int32 (K, L), the position that each direction visits at each step, instead of `directions`.
            merge: sum the directions, or keep them apart.
            skip: (B, L) bool, positions that change no state (dt = 0), such as padding.
            sources: masks (B, L) bool, True at the positions whose u the scan reads; one output per mask. dt, B and C
                come from all of u, so the scan is linear in what it reads: the outputs of masks that partition the
                sequence sum to the output without masks.

        Returns:
            (B, L, D), with `merge="stack"` (B, K, L, D); a list of these with `sources`.
        """
        count = len(self.directions)
        if u.dim() == 3 and self.x_proj.shape[0] == count:  # all directions from one product
            projected = linear(u, self.x_proj.flatten(0, 1).to(u.dtype)).unflatten(-1, (count, -1)).transpose(1, 2)
        else:
            u_k = u.unsqueeze(1) if u.dim() == 3 else u
            projected = torch.einsum("bkld,kcd->bklc", u_k, self.x_proj.to(u.dtype).expand(u_k.shape[1], -1, -1))
        dt, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = torch.einsum("bklr,kdr->bkld", dt, self.dt_proj.to(dt.dtype).expand(dt.shape[1], -1, -1))
        if skip is not None:
            delta = delta.masked_fill(skip[:, None, :, None], NO_TIME)
        A = -self.A_log.float().exp()
        delta, B, C = (t.expand(-1, count, -1, -1) for t in (delta, B, C))
        A, D, bias = (t.expand(count, *t.shape[1:]) for t in (A, self.D, self.dt_bias))

        def scan(u: Tensor) -> Tensor:
            directions: tuple[Direction, ...] = self.directions if order is None else ("forward",)
            return selective_scan(u, delta, A, B, C, D, z, bias, directions=directions, order=order, merge=merge)

        if sources is None:
            return scan(u)
        return [scan(u * chosen.reshape(-1, *[1] * (u.dim() - 3), chosen.shape[-1], 1)) for chosen in sources]
