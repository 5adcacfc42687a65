"""Selective scan in plain PyTorch: chunks of positions, vectorised over everything but the recurrence itself.

Inside a chunk the decays, inputs and outputs of all positions are computed at once; the recurrence is one fused
multiply-add per position. Only products of the given decays are formed, never their inverses, so it is as stable as the
step-by-step definition. The backward recomputes each chunk from its stored first state.

Shapes: B batch, K directions, L positions, C channels, N states; T positions of a chunk.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.kernels.reference.selective_scan import softplus
from lightning_modules.kernels.scan_inputs import ScanGradients, ScanInputs, ScanOutputs, in_dtypes

# Elements of one (B, K, T, C, N) work tensor, where T allows: a few MiB, so that a chunk stays in a CPU's cache.
_WORK_ELEMENTS = 1 << 19
_SHORTEST, _LONGEST = 8, 128


def saved_shapes(inputs: ScanInputs, training: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of ScanOutputs.ungated and .checkpoints (chunks, B, K, C, N)."""
    if not training:
        return (0,), (0,)
    chunks = -(-inputs.delta.shape[2] // _chunk_length(inputs))
    return inputs.output_shape if inputs.z is not None else (0,), (chunks, *inputs.state_shape)


def forward(inputs: ScanInputs, *, training: bool, want_state: bool) -> ScanOutputs:
    """See ScanOutputs."""
    inputs.check_order()
    visited = _Visited(inputs)
    state = visited.initial_state
    checkpoints, pieces = [], []
    for chunk in visited.chunks():
        if training:
            checkpoints.append(state)
        decay = visited.decay(chunk)
        states = _states(decay, visited.input(chunk), state)
        pieces.append(_contract(states, visited.C[:, :, chunk]))
        state = states[:, :, -1].clone()  # a view would keep all states of the chunk
    ungated = visited.restore(torch.cat(pieces, 2))
    if inputs.D is not None:
        ungated = ungated + inputs.D[:, None, :] * visited.stored_u
    ungated = ungated if inputs.stack else ungated.sum(1)
    y = ungated if inputs.z is None else ungated * F.silu(_gate(inputs.z, inputs.stack, ungated.dtype))
    dtype, empty = inputs.u.dtype, y.new_empty(0)
    return ScanOutputs(
        y.to(dtype),
        state if want_state else empty,
        ungated.to(dtype, copy=True) if training and inputs.z is not None else inputs.u.new_empty(0),
        torch.stack(checkpoints).contiguous() if training else empty.clone(),
    )


def backward(
    inputs: ScanInputs, ungated: Tensor, checkpoints: Tensor, grad_y: Tensor, grad_final_state: Tensor | None
) -> ScanGradients:
    """Chunks from the last to the first, see the module's docstring."""
    visited = _Visited(inputs)
    grad_y, grad_z = _through_gate(inputs, ungated, grad_y.to(visited.A.dtype))
    grad_per_direction = (grad_y if inputs.stack else grad_y.unsqueeze(1)).expand(inputs.delta.shape)
    grad_visited = visited.visit(grad_per_direction)
    carry = torch.zeros_like(visited.initial_state) if grad_final_state is None else grad_final_state
    grad_A = torch.zeros_like(visited.A)
    pieces = []
    for index, chunk in reversed(list(enumerate(visited.chunks()))):
        decay = visited.decay(chunk)
        states = _states(decay, visited.input(chunk), checkpoints[index])
        previous = torch.cat([checkpoints[index][:, :, None], states[:, :, :-1]], 2)
        arriving = grad_visited[:, :, chunk, :, None] * visited.C[:, :, chunk, None, :]
        grad_states = _states_reversed(decay, arriving, carry)
        carry = decay[:, :, 0] * grad_states[:, :, 0]
        grad_exponent = grad_states * decay * previous
        grad_x = _contract(grad_states, visited.B[:, :, chunk])
        dt, u = visited.dt[:, :, chunk], visited.u[:, :, chunk]
        grad_A += torch.einsum("bktcn,bktc->kcn", grad_exponent, dt)
        grad_dt = (grad_exponent * visited.A[:, None]).sum(-1) + u * grad_x
        grad_B = torch.einsum("bktcn,bktc->bktn", grad_states, dt * u)
        grad_C = torch.einsum("bktcn,bktc->bktn", states, grad_visited[:, :, chunk])
        pieces.append((dt * grad_x, grad_dt, grad_B, grad_C))
    grad_u, grad_dt, grad_B, grad_C = (visited.restore(torch.cat(t[::-1], 2)) for t in zip(*pieces, strict=True))
    if inputs.D is not None:
        grad_u = grad_u + inputs.D[:, None, :] * grad_per_direction
    grad_delta = grad_dt * visited.softplus_slope() if inputs.softplus else grad_dt
    grads = (
        grad_u.sum(1, keepdim=True) if inputs.u.shape[1] == 1 else grad_u,
        grad_delta,
        grad_A,
        grad_B,
        grad_C,
        None if inputs.D is None else (grad_per_direction * visited.stored_u).sum((0, 2)),
        grad_z,
        None if inputs.delta_bias is None else grad_delta.sum((0, 2)),
        None if inputs.initial_state is None else carry,
    )
    # Some follow the strides of an input; the operator promises contiguous ones.
    return tuple(None if grad is None else grad.contiguous() for grad in in_dtypes(grads, inputs))


class _Visited:
    """The inputs in visiting order and computing precision (float32, or float64)."""

    def __init__(self, inputs: ScanInputs) -> None:
        self.A = inputs.A
        self._length = inputs.delta.shape[2]
        self._chunk = _chunk_length(inputs)
        self._order = None if inputs.order is None and not any(inputs.reverse) else inputs.visiting_order()
        dtype = self.A.dtype
        self.stored_u = inputs.u.to(dtype).expand(inputs.delta.shape)
        self._raw = inputs.delta.to(dtype)
        if inputs.delta_bias is not None:
            self._raw = self._raw + inputs.delta_bias[:, None, :]
        dt = softplus(self._raw) if inputs.softplus else self._raw
        self.u, self.dt, self.B, self.C = (self.visit(t.to(dtype)) for t in (self.stored_u, dt, inputs.B, inputs.C))
        state = inputs.initial_state
        self.initial_state = dt.new_zeros(inputs.state_shape) if state is None else state

    def chunks(self) -> Iterator[slice]:
        """Neighbouring positions in visiting order, as many at once as fit."""
        return (slice(start, start + self._chunk) for start in range(0, self._length, self._chunk))

    def decay(self, chunk: slice) -> Tensor:
        """exp(dt A): (B, K, T, C, N)."""
        return torch.exp(self.dt[:, :, chunk, :, None] * self.A[:, None])

    def input(self, chunk: slice) -> Tensor:
        """dt u B: (B, K, T, C, N)."""
        x = self.dt[:, :, chunk] * self.u[:, :, chunk]
        return x[..., None] * self.B[:, :, chunk, None, :]

    def softplus_slope(self) -> Tensor:
        """d dt / d delta, in storage order."""
        return torch.sigmoid(self._raw)

    def visit(self, tensor: Tensor) -> Tensor:
        """(B, K, L, *) from storage order to visiting order."""
        return tensor if self._order is None else tensor.gather(2, _index(self._order, tensor))

    def restore(self, tensor: Tensor) -> Tensor:
        """(B, K, L, *) from visiting order to storage order."""
        if self._order is None:
            return tensor
        return torch.empty_like(tensor).scatter_(2, _index(self._order, tensor), tensor)


def _index(order: Tensor, tensor: Tensor) -> Tensor:
    """(K, L) -> what `gather` along dimension 2 of the tensor (B, K, L, *) needs."""
    return order[None, :, :, None].expand(tensor.shape)


def _states(decay: Tensor, x: Tensor, state: Tensor) -> Tensor:
    """h_t = decay_t h_{t-1} + x_t; overwrites x, (B, K, T, C, N), with the states."""
    for step in range(x.shape[2]):
        state = x[:, :, step].addcmul_(decay[:, :, step], state)
    return x


def _states_reversed(decay: Tensor, arriving: Tensor, carry: Tensor) -> Tensor:
    """g_t = arriving_t + decay_{t+1} g_{t+1}, the last with `carry` in place of the product; overwrites arriving."""
    last = arriving.shape[2] - 1
    grad = arriving[:, :, last].add_(carry)
    for step in range(last - 1, -1, -1):
        grad = arriving[:, :, step].addcmul_(decay[:, :, step + 1], grad)
    return arriving


def _contract(states: Tensor, weights: Tensor) -> Tensor:
    """Sum over N of (B, K, T, C, N) times (B, K, T, N): (B, K, T, C)."""
    return (states @ weights[..., None]).squeeze(-1)


def _gate(z: Tensor, stack: bool, dtype: torch.dtype) -> Tensor:
    return (z.unsqueeze(1) if stack else z).to(dtype)


def _through_gate(inputs: ScanInputs, ungated: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of the ungated output and of z."""
    if inputs.z is None:
        return grad_y, None
    gate = _gate(inputs.z, inputs.stack, grad_y.dtype)
    slope = torch.sigmoid(gate)
    grad_z = grad_y * ungated.to(grad_y.dtype) * slope * (1 + gate * (1 - slope))
    return grad_y * gate * slope, grad_z.sum(1) if inputs.stack else grad_z


def _chunk_length(inputs: ScanInputs) -> int:
    batch, directions, channels, states = inputs.state_shape
    return min(_LONGEST, max(_SHORTEST, _WORK_ELEMENTS // (batch * directions * channels * states)))
