"""Selective scan in Triton: lays out the launches and joins the segments.

Where batch x directions x channel blocks cannot fill the GPU, positions are cut into segments: one launch summarises
every segment as if it started from zero, one chains the summaries, and the real launch runs all segments at once from
the right states. The backward does the same from the other end. Directions are added, gated and rounded in one pass.

Shapes: B batch, K directions, L positions, C channels, N states; S segments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from lightning_modules.kernels.layout import packed_channels
from lightning_modules.kernels.scan_inputs import ScanGradients, ScanInputs, ScanOutputs, in_dtypes
from lightning_modules.kernels.triton import gate_kernels
from lightning_modules.kernels.triton import scan_kernels as kernels
from lightning_modules.kernels.triton.availability import FUSED, on_its_device

CHUNK = 32
TILE_SIZE = 512
"""Channels x states of a program, 32 x 16 for one: with more, the backward's registers do not hold them."""
MOST_CHANNELS = 128
"""Of a program with few states, whose registers hold numbers of its channels instead."""
# Programs that keep a large GPU busy: eight for each of about 132 multiprocessors, as many as the backward's registers
# let in at once.
WANTED_PROGRAMS = 1056
LEAST_CHUNKS = 4
"""Of a segment: its summary costs more than half a scan, so a few positions are not worth one."""
ELEMENTWISE = {"POSITIONS": 8, "BLOCK": 128, **FUSED}
"""Of the kernels without recurrence."""
MOST_FLAGS = 31
"""Directions whose sense fits into the bits of one integer; more of them run by a table of positions."""


@dataclass(frozen=True)
class Launch:
    """How a scan is cut: the grid is (channel blocks, segments, batch x directions)."""

    block: int
    blocks: int
    segments: int
    segment: int
    rows: int
    states: int

    @classmethod
    def of(cls, inputs: ScanInputs) -> "Launch":
        """How the scan of these inputs is cut, so that enough programs run beside each other."""
        batch, directions, length, channels = inputs.delta.shape
        states = triton.next_power_of_2(inputs.A.shape[2])
        block = max(1, min(MOST_CHANNELS, TILE_SIZE // states))
        blocks, rows, chunks = triton.cdiv(channels, block), batch * directions, triton.cdiv(length, CHUNK)
        wanted = max(1, WANTED_PROGRAMS // (blocks * rows))
        chunks_per_segment = triton.cdiv(chunks, min(wanted, max(1, chunks // LEAST_CHUNKS)))
        return cls(block, blocks, triton.cdiv(chunks, chunks_per_segment), chunks_per_segment * CHUNK, rows, states)

    @property
    def chunks(self) -> int:
        """Of all segments, whole ones."""
        return self.segments * self.segment // CHUNK

    @property
    def grid(self) -> tuple[int, int, int]:
        """Programs along each axis."""
        return self.blocks, self.segments, self.rows

    def options(self, softplus: bool) -> dict[str, Any]:
        """Compile-time constants that all scanning kernels share."""
        return {
            "SEGMENT": self.segment,
            "BLOCK": self.block,
            "STATES": self.states,
            "SOFTPLUS": softplus,
            "num_warps": 1,
            **FUSED,
        }


def saved_shapes(inputs: ScanInputs, training: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of ScanOutputs.ungated and .checkpoints (B, K, chunks, C, N)."""
    if not training:
        return (0,), (0,)
    batch, directions, channels, states = inputs.state_shape
    checkpoints = (batch, directions, Launch.of(inputs).chunks, channels, states)
    return inputs.output_shape if inputs.z is not None else (0,), checkpoints


@on_its_device
def forward(inputs: ScanInputs, *, training: bool, want_state: bool) -> ScanOutputs:
    """See ScanOutputs."""
    inputs.check_order()
    call = _Call(inputs)
    launch, t = call.launch, call.tensors
    starts = call.starts() if launch.segments > 1 else t.initial_state
    merged = t.z is not None or (t.delta.shape[1] > 1 and not t.stack)
    # Several directions are added up before they are rounded.
    per_direction = t.u.new_empty(t.delta.shape, dtype=torch.float32 if merged else t.u.dtype)
    ungated_shape, checkpoint_shape = saved_shapes(inputs, training)
    checkpoints = t.A.new_empty(checkpoint_shape)
    final = t.A.new_empty(t.state_shape if want_state else 0)
    kernels.scan_forward[launch.grid](
        *(t.u, t.delta, t.A, t.B, t.C, t.D, t.delta_bias, t.order, starts, per_direction),
        *(checkpoints if training else None, final if want_state else None),
        *call.sizes,
        launch.chunks,
        *_strides(t.u, t.delta, t.B, t.C),
        CHUNK=CHUNK,
        **launch.options(t.softplus),
    )
    ungated = t.u.new_empty(ungated_shape)
    y = t.u.new_empty(t.output_shape) if merged else per_direction.view(t.output_shape)
    if merged:
        _merge(per_direction, t.z, y, ungated if ungated.numel() else None, t.stack)
    return ScanOutputs(y, final, ungated, checkpoints)


@on_its_device
def backward(
    inputs: ScanInputs, ungated: Tensor, checkpoints: Tensor, grad_y: Tensor, grad_final_state: Tensor | None
) -> ScanGradients:
    """Deterministic: partial sums are stored apart and added in a fixed order, never by atomics."""
    call = _Call(inputs)
    launch, t = call.launch, call.tensors
    batch, directions, length, channels = t.delta.shape
    grad_y = packed_channels(grad_y if t.stack else grad_y.unsqueeze(1))
    grad_z = None
    if t.z is not None:
        grad_y, grad_z = _through_gate(t.z, ungated, grad_y)
    carries = grad_final_state if grad_final_state is None else grad_final_state.contiguous()
    if launch.segments > 1:
        carries = call.carries(grad_y, carries)
    empty = t.A.new_empty
    scratch = empty(launch.segments * launch.rows * launch.blocks * CHUNK * launch.block * launch.states)
    shared_u = t.u.shape[1] == 1 and directions > 1
    grad_u = t.u.new_empty(t.delta.shape, dtype=torch.float32 if shared_u else t.u.dtype)
    grad_delta = t.delta.new_empty(t.delta.shape)
    grad_A = empty(launch.segments, *t.state_shape)
    grad_B, grad_C = (empty(launch.blocks, *t.B.shape) for _ in range(2))
    grad_D, grad_bias = (
        None if parameter is None else empty(launch.segments, batch, directions, channels)
        for parameter in (t.D, t.delta_bias)
    )
    grad_start = None if t.initial_state is None else empty(t.state_shape)
    kernels.scan_backward[launch.grid](
        *(t.u, t.delta, t.A, t.B, t.C, t.D, t.delta_bias, t.order, checkpoints, carries, grad_y, scratch),
        *(grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_start),
        *call.sizes,
        launch.chunks,
        *_strides(t.u, t.delta, t.B, t.C, grad_y),
        CHUNK=CHUNK,
        **launch.options(t.softplus),
    )
    if shared_u:
        parts, grad_u = grad_u, t.u.new_empty(batch, 1, length, channels)
        _merge(parts, None, grad_u, None, stack=False)
    grads = (
        grad_u,
        grad_delta,
        grad_A.sum((0, 1)),
        grad_B.sum(0),
        grad_C.sum(0),
        None if grad_D is None else grad_D.sum((0, 1)),
        grad_z,
        None if grad_bias is None else grad_bias.sum((0, 1)),
        grad_start,
    )
    return in_dtypes(grads, inputs)


class _Call:
    """One scan's tensors as the kernels take them, channels and states contiguous."""

    def __init__(self, inputs: ScanInputs) -> None:
        _, directions, length, channels = inputs.delta.shape
        order, backwards = inputs.order, 0
        if order is None and directions > MOST_FLAGS:
            order = inputs.visiting_order()
        elif order is None:
            backwards = sum(reverse << k for k, reverse in enumerate(inputs.reverse))
        self.launch = Launch.of(inputs)
        self.tensors = inputs._replace(
            u=packed_channels(inputs.u),
            delta=packed_channels(inputs.delta),
            A=inputs.A.contiguous(),
            B=packed_channels(inputs.B),
            C=packed_channels(inputs.C),
            D=_contiguous(inputs.D),
            z=None if inputs.z is None else packed_channels(inputs.z),
            delta_bias=_contiguous(inputs.delta_bias),
            initial_state=_contiguous(inputs.initial_state),
            order=None if order is None else order.to(device=inputs.delta.device, dtype=torch.int32).contiguous(),
        )
        self.sizes = (directions, length, channels, inputs.A.shape[2], backwards)

    def starts(self) -> Tensor:
        """The state before each segment, (S, B, K, C, N)."""
        t, launch = self.tensors, self.launch
        ends = t.A.new_empty(launch.segments, *t.state_shape)
        totals = t.A.new_empty(ends.shape[:-1])
        kernels.summarise_segments[launch.grid](
            *(t.u, t.delta, t.A, t.B, t.delta_bias, t.order, ends, totals),
            *self.sizes,
            *_strides(t.u, t.delta, t.B),
            **launch.options(t.softplus),
        )
        return self._chain(ends, totals, t.initial_state, backwards=False)

    def carries(self, grad_y: Tensor, grad_final_state: Tensor | None) -> Tensor:
        """The gradient of the state after each segment, (S, B, K, C, N)."""
        t, launch = self.tensors, self.launch
        ends = t.A.new_empty(launch.segments, *t.state_shape)
        totals = t.A.new_empty(ends.shape[:-1])
        kernels.summarise_gradients[launch.grid](
            *(t.delta, t.A, t.C, t.delta_bias, t.order, grad_y, ends, totals),
            *self.sizes,
            *_strides(t.delta, t.C, grad_y),
            **launch.options(t.softplus),
        )
        return self._chain(ends, totals, grad_final_state, backwards=True)

    def _chain(self, ends: Tensor, totals: Tensor, border: Tensor | None, backwards: bool) -> Tensor:
        launch, (directions, _, channels, states, _) = self.launch, self.sizes
        states_at = torch.empty_like(ends)
        kernels.chain_segments[(launch.blocks, 1, launch.rows)](
            *(ends, totals, self.tensors.A, border, states_at),
            *(directions, channels, states, launch.segments),
            BACKWARDS=backwards,
            BLOCK=launch.block,
            STATES=launch.states,
            num_warps=1,
            **FUSED,
        )
        return states_at


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _strides(*tensors: Tensor) -> list[int]:
    """Per tensor its batch, direction and position strides; direction 0 where the directions share it."""
    return [s for t in tensors for s in (t.stride(0), 0 if t.shape[1] == 1 else t.stride(1), t.stride(2))]


def _tiles(shape: Sequence[int]) -> tuple[int, int, int]:
    """The grid over a tensor (B, .., L, C)."""
    return triton.cdiv(shape[-1], ELEMENTWISE["BLOCK"]), triton.cdiv(shape[-2], ELEMENTWISE["POSITIONS"]), shape[0]


def _merge(parts: Tensor, z: Tensor | None, y: Tensor, ungated: Tensor | None, stack: bool) -> None:
    """Writes y, and `ungated` where it is kept, from parts (B, K, L, C)."""
    batch_stride, position_stride = (0, 0) if z is None else z.stride()[:2]
    gate_kernels.merge_directions[_tiles(parts.shape)](
        *(parts, z, y, ungated, *parts.shape[1:], batch_stride, position_stride), STACK=stack, **ELEMENTWISE
    )


def _through_gate(z: Tensor, ungated: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the ungated output, float32, and of z. grad_y: (B, 1 or K, L, C)."""
    grad_ungated, grad_z = grad_y.new_empty(grad_y.shape, dtype=torch.float32), z.new_empty(z.shape)
    gate_kernels.gate_backward[_tiles(grad_y.shape)](
        *(grad_y, ungated, z, grad_ungated, grad_z, *grad_y.shape[1:], *grad_y.stride()[:3], *z.stride()[:2]),
        **ELEMENTWISE,
    )
    return grad_ungated, grad_z
