"""State space duality in plain PyTorch: matrix products inside chunks, a recurrence between them.

Dao & Gu 2024, Section 6 and Listing 1. Stable: exponentials are of sums of dt A only. The backward pass is written out:
most of the time goes into passes over (B, c, H, q, q), of which autograd would make more.

Shapes: B batch, L positions, H heads, P channels of a head, N states; c chunks of q positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.kernels.ssd_inputs import Saved, SavedShapes, SSDGradients, SSDInputs

CHUNK = 64


def saved_shapes(inputs: SSDInputs, training: bool) -> SavedShapes:
    """Of what `forward` saves."""
    batch, length, heads, width = inputs.x.shape
    chunk = min(CHUNK, length)
    chunks = -(-length // chunk)
    if not training:
        return (0,), (0,), (0,)
    decay = (batch, chunks, heads, chunk, chunk)
    if chunks == 1 and inputs.initial_state is None:
        return decay, (0,), (0,)
    return decay, (batch, chunks, heads, width, inputs.B.shape[2]), (batch, chunks, chunk, heads, width)


def forward(inputs: SSDInputs, *, training: bool, want_state: bool) -> tuple[Tensor, Tensor, Saved]:
    """y (B, L, H, P) and final state (B, H, P, N), empty unless `want_state`; see reference.ssd."""
    x, _, _, _, _, D, initial_state = inputs
    cut = _Chunks(inputs)
    # Inside the chunks: y_i = sum over j <= i of (C_i B_j) decay(j -> i) dt_j x_j.
    decay = cut.decay()
    scores = cut.scores()[:, :, None]
    y = _causal_product(decay * scores if training else decay.mul_(scores), cut.values()).transpose(2, 3)

    # Between the chunks: the state each leaves behind, and what the next one sees of it.
    before, between, state = x.new_empty(0), x.new_empty(0), x.new_empty(0)
    chunks = decay.shape[1]
    # Contiguous, or its strides would become those of the results.
    start = None if initial_state is None else initial_state.contiguous()
    states = [] if start is None else [start]
    if want_state or chunks > 1:
        left_behind = (cut.faded().flatten(3).mT @ cut.B).unflatten(2, x.shape[2:])
        whole = cut.since_start[:, :, -1, :, None, None]
        state = left_behind[:, 0] if start is None else whole[:, 0] * start + left_behind[:, 0]
        states = [torch.zeros_like(state) if start is None else start]
        for index in range(1, chunks):
            states.append(state)
            state = whole[:, index] * state + left_behind[:, index]
    if start is not None or chunks > 1:  # else the states before are all zero
        before = torch.stack(states, 1)
        between = (cut.C @ before.flatten(2, 3).mT).unflatten(3, x.shape[2:]).mul_(cut.since_start[..., None])
        y = between + y
    y = y.flatten(1, 2)[:, : x.shape[1]]
    y = (y if D is None else y + D[:, None] * x).contiguous()
    state = state if want_state else x.new_empty(0)
    return y, state, Saved(decay, before, between) if training else Saved(*(x.new_empty(0) for _ in range(3)))


def backward(inputs: SSDInputs, saved: Saved, grad_y: Tensor, grad_final_state: Tensor | None) -> SSDGradients:
    """Gradients of the inputs.

    Unlike in the forward, a value that is not finite reaches earlier positions of its chunk: the gradient of dt is a
    difference of sums over the chunk. (The gradient of A, a sum over all positions, is never finite then.)
    """
    x, _, A, B, _, D, initial_state = inputs
    decay, before, between = saved
    cut, length = _Chunks(inputs), x.shape[1]
    received = _chunked(grad_y)
    by_head = received.transpose(2, 3).contiguous()
    scores = cut.scores()
    grad_values = ((decay * scores[:, :, None]).mT @ by_head).transpose(2, 3)
    grad_weights = (by_head @ cut.values().mT).mul_(decay)
    grad_scores = grad_weights.sum(2)
    pairs = grad_weights.mul_(scores[:, :, None])  # gradient of the log decay from j to i, a difference of two sums
    grad_log = (pairs.sum(-1, dtype=torch.float64) - pairs.sum(-2, dtype=torch.float64)).mT
    grad_B, grad_C = grad_scores.mT @ cut.C, grad_scores @ cut.B

    seen = None
    if before.numel():
        grad_log += (received * between).sum(-1)
        arrived = (received * cut.since_start[..., None]).flatten(3)
        grad_C += arrived @ before.flatten(2, 3)
        seen = (arrived.mT @ cut.C).unflatten(2, x.shape[2:])
    if before.numel() or grad_final_state is not None:
        whole = cut.since_start[:, :, -1, :, None, None]
        carry = torch.zeros_like(decay[:, 0, :, :1, :1]) if grad_final_state is None else grad_final_state
        carry = carry.expand(x.shape[0], *x.shape[2:], B.shape[2])
        carries = []
        for index in reversed(range(decay.shape[1])):
            carries.append(carry)
            carry = carry * whole[:, index]
            if seen is not None:
                carry = carry + seen[:, index]
        grad_left = torch.stack(carries[::-1], 1)
        faded = cut.faded()
        grad_faded = (cut.B @ grad_left.flatten(2, 3).mT).unflatten(3, x.shape[2:])
        grad_B += faded.flatten(3) @ grad_left.flatten(2, 3)
        grad_values = grad_values + grad_faded * cut.until_end[..., None]
        fading = (grad_faded * faded).sum(-1).double()
        grad_log -= fading
        grad_log[:, :, -1] += fading.sum(2)
        if before.numel():
            grad_log[:, :, -1] += (grad_left * before).sum((-1, -2)) * cut.since_start[:, :, -1]
    grad_exponent = grad_log.flip(2).cumsum(2).flip(2).to(x.dtype)  # of dt A

    grad_x, grad_dt, grad_B, grad_C = (
        t.flatten(1, 2)[:, :length]
        for t in (
            grad_values * cut.dt[..., None],
            grad_exponent * A + (grad_values * cut.x).sum(-1),
            grad_B,
            grad_C,
        )
    )
    return (
        (grad_x if D is None else grad_x + D[:, None] * grad_y).contiguous(),
        grad_dt.contiguous(),
        (grad_exponent * cut.dt).sum((0, 1, 2)),
        grad_B.contiguous(),
        grad_C.contiguous(),
        None if D is None else (grad_y * x).sum((0, 1, 3)),
        None if initial_state is None else carry.contiguous(),
    )


class _Chunks:
    """The inputs cut into chunks, (B, c, q, ...), and the decays to their borders."""

    def __init__(self, inputs: SSDInputs) -> None:
        x, dt, A, B, C, *_ = inputs
        self.x, self.dt, self.B, self.C = (_chunked(t) for t in (x, dt, B, C))
        # Decays are differences of sums, which cancel: in float64 they are exact enough for float32.
        self._log = (self.dt * A).double().cumsum(2)
        self.since_start = torch.exp(self._log.to(x.dtype))  # (B, c, q, H)
        self.until_end = torch.exp((self._log[:, :, -1:] - self._log).to(x.dtype))  # (B, c, q, H)
        self._inputs = self.x * self.dt[..., None]

    def decay(self) -> Tensor:
        """See Saved."""
        log = self._log.mT.contiguous()
        decay = (log[..., :, None] - log[..., None, :]).to(self.x.dtype)
        later = torch.ones(decay.shape[-2:], dtype=torch.bool, device=decay.device).triu_(1)
        return decay.masked_fill_(later, -torch.inf).exp_()

    def scores(self) -> Tensor:
        """C_i B_j: (B, c, q, q), zero where j is later, since not even a zero decay would keep NaN away."""
        return (self.C @ self.B.mT).tril_()

    def values(self) -> Tensor:
        """dt x by head: (B, c, H, q, P)."""
        return self._inputs.transpose(2, 3).contiguous()

    def faded(self) -> Tensor:
        """dt x as far as it is left at the end of its chunk: (B, c, q, H, P)."""
        return self._inputs * self.until_end[..., None]


def _chunked(tensor: Tensor) -> Tensor:
    """(B, L, ...) -> (B, c, q, ...); steps of length zero, which change nothing, fill the last chunk."""
    length = tensor.shape[1]
    chunk = min(CHUNK, length)
    if missing := -length % chunk:
        tensor = F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing))
    return tensor.unflatten(1, (-1, chunk))


def _causal_product(weights: Tensor, values: Tensor) -> Tensor:
    """weights (.., q, q), lower triangular, times values (.., q, P): NaN and infinities stay out of earlier positions.

    A product with them is NaN even where the weight is zero. On a CPU a look at the result says whether there are any;
    elsewhere that look would have to wait for the device.
    """
    if weights.device.type == "cpu" and (product := weights @ values).sum().isfinite():
        return product
    reached = (values * 0).cumsum(-2)  # NaN from the first on, else zero
    return (weights @ values.nan_to_num(0, 0, 0)).add_(reached)
