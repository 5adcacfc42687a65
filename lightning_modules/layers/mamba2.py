"""The Mamba-2 mixer (Dao & Gu 2024, arXiv 2405.21060, section 7.1): a whole sequence at once, or token by token.

[z, x, B, C, dt] = in_proj(u);  x, B, C = silu(conv(x, B, C));  y = SSD(x, dt, B, C) + D x;  out_proj(RMS(y silu(z)) w)

Shapes: B batch, L positions, M model width, D inner width, H heads of P channels (D = H P), N states, k taps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.kernels import depthwise_conv1d_update, linear, rms_norm, ssd, ssd_state_update
from lightning_modules.layers.config import Mamba2Config
from lightning_modules.layers.conv import ShortConv
from lightning_modules.layers.linear import Linear
from lightning_modules.layers.ssm import NO_TIME, draw_dt_bias
from lightning_modules.precision import autocast_dtype

A_RANGE = (1.0, 16.0)
NORM_EPS = 1e-5


class Mamba2State(NamedTuple):
    """What a mixer remembers of the tokens before, updated in place and of constant size, and its weights."""

    window: Tensor  # (B, k - 1, D + 2N): the last inputs of the convolution, oldest first
    ssm: Tensor  # (B, H, P, N) float32
    in_proj: Tensor  # weights in the dtype of decoding, so that no step converts them
    out_proj: Tensor
    A: Tensor  # (H,)


class Mamba2(nn.Module):
    """(B, L, M) -> (B, L, M), causal. One group of B and C for all heads.

    Args:
        width: M.
        config: see `Mamba2Config`.
    """

    def __init__(self, width: int, config: Mamba2Config):
        super().__init__()
        self.inner, self.heads, self.d_state = width * config.expand, config.heads(width), config.d_state
        self.split = [self.inner, self.inner + 2 * self.d_state, self.heads]
        self.in_proj = Linear(width, sum(self.split), bias=False)
        self.conv = ShortConv(self.inner + 2 * self.d_state, config.d_conv, "causal")
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.RMSNorm(self.inner, eps=NORM_EPS)
        self.out_proj = Linear(self.inner, width, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A = -U(1, 16); dt log-uniform in [1e-3, 1e-1] after the softplus."""
        draw_dt_bias(self.dt_bias)
        self.A_log.uniform_(*A_RANGE).log_()

    def forward(self, u: Tensor, mask: Tensor | None = None, state: Mamba2State | None = None) -> Tensor:
        """u: (B, L, M); mask: (B, L) bool, False at padding, which leaves no trace in the positions after it.

        `state`, where given, is overwritten with what there is to remember after the last position (inference only).
        """
        z, xbc, dt = self.in_proj(u).split(self.split, dim=-1)
        if mask is not None:
            xbc = xbc * mask[..., None]
            dt = dt.masked_fill(~mask[..., None], NO_TIME)
        x, B, C = self._parts(self.conv(xbc))
        A = -self.A_log.float().exp()
        if state is None:
            y = ssd(x, dt, A, B, C, self.D, self.dt_bias)
        else:
            y, final = ssd(x, dt, A, B, C, self.D, self.dt_bias, return_final_state=True)
            state.ssm.copy_(final)
            kept = state.window.shape[1]
            state.window.copy_(F.pad(xbc, (0, 0, max(0, kept - xbc.shape[1]), 0))[:, -kept:])
        return self.out_proj(self._gate(y, z))

    def step(self, u: Tensor, state: Mamba2State) -> Tensor:
        """One position, without autocast: u (B, M) -> (B, M); `state` moves on in place."""
        z, xbc, dt = linear(u.to(state.in_proj.dtype), state.in_proj).split(self.split, dim=-1)
        x, B, C = self._parts(depthwise_conv1d_update(state.window, xbc, self.conv.weight, self.conv.bias))
        y = ssd_state_update(state.ssm, x, dt, state.A, B, C, self.D, self.dt_bias)
        return linear(self._gate(y, z).to(state.out_proj.dtype), state.out_proj)

    def new_state(self, batch: int) -> Mamba2State:
        """The state before the first token of `batch` sequences; autocast, where it is on, sets the dtype."""
        into, out = self.in_proj.weight.detach(), self.out_proj.weight.detach()
        dtype = autocast_dtype(into.device.type) or into.dtype
        wide = torch.promote_types(into.dtype, torch.float32)
        window = into.new_zeros(batch, self.conv.weight.shape[1] - 1, self.split[1], dtype=dtype)
        ssm = into.new_zeros(batch, self.heads, self.inner // self.heads, self.d_state, dtype=wide)
        return Mamba2State(window, ssm, into.to(dtype), out.to(dtype), -self.A_log.detach().to(wide).exp())

    def decoding_tensors(self, state: Mamba2State) -> dict[str, Tensor]:
        """What `kernels.mamba2_decoder` asks of a layer's mixer, by name."""
        wide = {
            "taps": self.conv.weight.T,
            "conv_bias": self.conv.bias,
            "dt_bias": self.dt_bias,
            "A": state.A,
            "skip": self.D,
            "norm": self.norm.weight,
        }
        kept = {"in_proj": state.in_proj, "out_proj": state.out_proj, "window": state.window, "state": state.ssm}
        return kept | {name: tensor.detach().to(state.ssm.dtype).contiguous() for name, tensor in wide.items()}

    def _parts(self, xbc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, B, C = xbc.split([self.inner, self.d_state, self.d_state], dim=-1)
        return x.unflatten(-1, (self.heads, -1)), B, C

    def _gate(self, y: Tensor, z: Tensor) -> Tensor:
        return rms_norm(y.flatten(-2), self.norm.weight, eps=NORM_EPS, gate=z)
