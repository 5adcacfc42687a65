"""Selective scan in Triton: lays out the launch and joins the segments.

Where batch x directions x channel blocks cannot fill the GPU, positions are cut into segments: one launch summarises
every segment as if it started from zero, a few small PyTorch steps chain the summaries, and the real launch runs all
segments at once from the right states. The backward does the same from the other end.

Shapes: B batch, K directions, L positions, C channels, N states; S segments.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from lightning_modules.kernels.layout import packed_channels
from lightning_modules.kernels.scan_inputs import ScanGradients, ScanInputs, ScanOutputs, in_dtypes
from lightning_modules.kernels.triton import scan_kernels as kernels

CHUNK = 32
BLOCK = 32
# Programs that keep a large GPU busy: four for each of about 132 multiprocessors.
WANTED_PROGRAMS = 528


@dataclass(frozen=True)
class Launch:
    """How a scan is cut: the grid is (channel blocks, segments, batch x directions)."""

    blocks: int
    segments: int
    segment: int
    rows: int
    states: int

    @classmethod
    def of(cls, inputs: ScanInputs) -> "Launch":
        batch, directions, length, channels = inputs.delta.shape
        blocks, rows, chunks = triton.cdiv(channels, BLOCK), batch * directions, triton.cdiv(length, CHUNK)
        wanted = max(1, WANTED_PROGRAMS // (blocks * rows))
        chunks_per_segment = triton.cdiv(chunks, min(wanted, max(1, chunks // 4)))
        states = triton.next_power_of_2(inputs.A.shape[2])
        return cls(blocks, triton.cdiv(chunks, chunks_per_segment), chunks_per_segment * CHUNK, rows, states)

    @property
    def chunks(self) -> int:
        """Of all segments, whole ones."""
        return self.segments * self.segment // CHUNK

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.blocks, self.segments, self.rows

    def options(self, softplus: bool) -> dict[str, Any]:
        """Compile-time constants that all kernels share."""
        return {"SEGMENT": self.segment, "BLOCK": BLOCK, "STATES": self.states, "SOFTPLUS": softplus, "num_warps": 1}


def saved_shapes(inputs: ScanInputs, training: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of ScanOutputs.ungated and .checkpoints (B, K, chunks, C, N)."""
    if not training:
        return (0,), (0,)
    batch, directions, channels, states = inputs.state_shape
    checkpoints = (batch, directions, Launch.of(inputs).chunks, channels, states)
    return inputs.output_shape if inputs.z is not None else (0,), checkpoints


def forward(inputs: ScanInputs, *, training: bool, want_state: bool) -> ScanOutputs:
    """See ScanOutputs."""
    inputs.check_order()
    call = _Call(inputs)
    launch, tensors = call.launch, call.tensors
    batch, directions, length, channels = tensors.delta.shape
    starts = tensors.A.new_zeros(launch.segments, *tensors.state_shape)
    if tensors.initial_state is not None:
        starts[0] = tensors.initial_state
    if launch.segments > 1:
        ends, decays = call.summaries()
        for index in range(launch.segments - 1):
            torch.addcmul(ends[index], decays[index], starts[index], out=starts[index + 1])
    per_direction = tensors.A.new_empty(batch, directions, length, channels)
    checkpoints = tensors.A.new_empty(saved_shapes(inputs, training)[1])
    final = tensors.A.new_empty(tensors.state_shape)
    kernels.scan_forward[launch.grid](
        *(tensors.u, tensors.delta, tensors.A, tensors.B, tensors.C, call.D, call.bias, call.order),
        *(starts, per_direction, checkpoints, final),
        *call.sizes,
        launch.chunks,
        *call.strides(tensors.u, tensors.delta, tensors.B, tensors.C),
        CHUNK=CHUNK,
        SAVE=training,
        **launch.options(inputs.softplus),
    )
    ungated = per_direction if inputs.stack else per_direction.sum(1)
    y = ungated
    if inputs.z is not None:
        y = ungated * F.silu((inputs.z.unsqueeze(1) if inputs.stack else inputs.z).float())
    dtype, empty = inputs.u.dtype, final.new_empty(0)
    keep = training and inputs.z is not None
    return ScanOutputs(
        y.to(dtype),
        final if want_state else empty,
        ungated.to(dtype, copy=True) if keep else inputs.u.new_empty(0),
        checkpoints,
    )


def backward(
    inputs: ScanInputs, ungated: Tensor, checkpoints: Tensor, grad_y: Tensor, grad_final_state: Tensor | None
) -> ScanGradients:
    """Deterministic: partial sums are stored apart and added in a fixed order, never by atomics."""
    call = _Call(inputs)
    launch, tensors = call.launch, call.tensors
    batch, directions, length, channels = tensors.delta.shape
    grad_y, grad_z = _through_gate(inputs, ungated, grad_y)
    grad_y = grad_y.contiguous() if inputs.stack else grad_y.contiguous().unsqueeze(1)
    carries = tensors.A.new_zeros(launch.segments, *tensors.state_shape)
    if grad_final_state is not None:
        carries[-1] = grad_final_state
    if launch.segments > 1:
        _, decays = call.summaries()
        arriving = call.gradient_summaries(grad_y)
        for index in range(launch.segments - 1, 0, -1):
            torch.addcmul(arriving[index], decays[index], carries[index], out=carries[index - 1])
    empty = tensors.A.new_empty
    scratch = empty(launch.segments * launch.rows * launch.blocks * CHUNK * BLOCK * launch.states)
    grad_u, grad_delta = empty(tensors.delta.shape), empty(tensors.delta.shape)
    grad_A, grad_start = torch.empty_like(carries), torch.empty_like(carries)
    grad_B, grad_C = (empty(launch.blocks, *tensors.B.shape) for _ in range(2))
    grad_D, grad_bias = (empty(launch.segments, batch, directions, channels) for _ in range(2))
    kernels.scan_backward[launch.grid](
        *(tensors.u, tensors.delta, tensors.A, tensors.B, tensors.C, call.D, call.bias, call.order),
        *(checkpoints, carries, grad_y, scratch),
        *(grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_start),
        *call.sizes,
        launch.chunks,
        *call.strides(tensors.u, tensors.delta, tensors.B, tensors.C, grad_y),
        CHUNK=CHUNK,
        **launch.options(inputs.softplus),
    )
    grads = (
        grad_u.sum(1, keepdim=True) if inputs.u.shape[1] == 1 else grad_u,
        grad_delta,
        grad_A.sum((0, 1)),
        grad_B.sum(0),
        grad_C.sum(0),
        grad_D.sum((0, 1)),
        grad_z,
        grad_bias.sum((0, 1)),
        grad_start[0],
    )
    return in_dtypes(grads, inputs)


class _Call:
    """One scan's tensors as the kernels take them: contiguous channels, zeros for absent D and bias, an order."""

    def __init__(self, inputs: ScanInputs) -> None:
        self.launch = Launch.of(inputs)
        self.tensors = inputs._replace(
            u=packed_channels(inputs.u),
            delta=packed_channels(inputs.delta),
            A=inputs.A.contiguous(),
            B=packed_channels(inputs.B),
            C=packed_channels(inputs.C),
        )
        zeros = inputs.A.new_zeros(inputs.A.shape[:2])
        self.D = zeros if inputs.D is None else inputs.D.contiguous()
        self.bias = zeros if inputs.delta_bias is None else inputs.delta_bias.contiguous()
        self.order = inputs.visiting_order().to(device=inputs.delta.device, dtype=torch.int32).contiguous()
        _, directions, length, channels = inputs.delta.shape
        self.sizes = (directions, length, channels, inputs.A.shape[2])

    @staticmethod
    def strides(*tensors: Tensor) -> list[int]:
        """Per tensor its batch, direction and position strides; direction 0 where the directions share it."""
        return [s for t in tensors for s in (t.stride(0), 0 if t.shape[1] == 1 else t.stride(1), t.stride(2))]

    def summaries(self) -> tuple[Tensor, Tensor]:
        """Per segment, (S, B, K, C, N) each: its last state when started from zero, and its decay from end to end."""
        t, launch = self.tensors, self.launch
        ends = t.A.new_empty(launch.segments, *t.state_shape)
        totals = t.A.new_empty(ends.shape[:-1])
        kernels.summarise_segments[launch.grid](
            *(t.u, t.delta, t.A, t.B, self.bias, self.order, ends, totals),
            *self.sizes,
            *self.strides(t.u, t.delta, t.B),
            **launch.options(t.softplus),
        )
        return ends, torch.exp(totals[..., None] * t.A)

    def gradient_summaries(self, grad_y: Tensor) -> Tensor:
        """Per segment: the gradient it sends to the state before it on its own, (S, B, K, C, N)."""
        t, launch = self.tensors, self.launch
        carries = t.A.new_empty(launch.segments, *t.state_shape)
        kernels.summarise_gradients[launch.grid](
            *(t.delta, t.A, t.C, self.bias, self.order, grad_y, carries),
            *self.sizes,
            *self.strides(t.delta, t.C, grad_y),
            **launch.options(t.softplus),
        )
        return carries


def _through_gate(inputs: ScanInputs, ungated: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of the ungated output and of z, float32."""
    grad_y = grad_y.float()
    if inputs.z is None:
        return grad_y, None
    gate = (inputs.z.unsqueeze(1) if inputs.stack else inputs.z).float()
    slope = torch.sigmoid(gate)
    grad_z = grad_y * ungated.float() * slope * (1 + gate * (1 - slope))
    return grad_y * gate * slope, grad_z.sum(1) if inputs.stack else grad_z
