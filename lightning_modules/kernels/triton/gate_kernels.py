"""Triton kernels around the selective scan that go through its tensors once: directions added, the gate, its gradients.
A program owns a tile of positions and channels of one batch element.

Shapes: B batch, K directions, L positions, C channels; tiles of POSITIONS positions.
"""

import triton
import triton.language as tl


@triton.jit
def merge_directions(
    parts, z, y, ungated, directions, length, channels, z_batch, z_position,
    STACK: tl.constexpr, POSITIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = parts silu(z), with the sum over directions of parts (B, K, L, C), or each of them where STACK.

    z: (B, L, C), or None: no gate. y, and ungated (before the gate, or None): (B, L, C), or with STACK (B, K, L, C).
    """
    batch, position, channel, mask = _tile(length, channels, POSITIONS, BLOCK)
    gate = _silu_of(z, batch, position, channel, mask, z_batch, z_position)
    cell = position * channels + channel
    total = tl.zeros((POSITIONS, BLOCK), tl.float32)
    for k in range(0, directions):
        row = (batch * directions + k) * length * channels
        value = tl.load(parts + row + cell, mask=mask, other=0.0).to(tl.float32)
        if STACK:
            if ungated is not None:
                tl.store(ungated + row + cell, value, mask=mask)
            tl.store(y + row + cell, value * gate, mask=mask)
        else:
            total += value
    if not STACK:
        row = batch * length * channels
        if ungated is not None:
            tl.store(ungated + row + cell, total, mask=mask)
        tl.store(y + row + cell, total * gate, mask=mask)


@triton.jit
def gate_backward(
    grad_y, ungated, z, grad_ungated, grad_z, directions, length, channels,
    grad_batch, grad_direction, grad_position, z_batch, z_position,
    POSITIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Through y = ungated silu(z): grad_ungated (B, K, L, C), and grad_z (B, L, C), which the directions add up to."""
    batch, position, channel, mask = _tile(length, channels, POSITIONS, BLOCK)
    gate = tl.load(z + batch * z_batch + position * z_position + channel, mask=mask, other=0.0).to(tl.float32)
    slope = tl.sigmoid(gate)
    cell = position * channels + channel
    total = tl.zeros((POSITIONS, BLOCK), tl.float32)
    for k in range(0, directions):
        source = batch * grad_batch + k * grad_direction + position * grad_position + channel
        grad = tl.load(grad_y + source, mask=mask, other=0.0).to(tl.float32)
        row = (batch * directions + k) * length * channels
        total += grad * tl.load(ungated + row + cell, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_ungated + row + cell, grad * gate * slope, mask=mask)
    total *= slope * (1.0 + gate * (1.0 - slope))
    tl.store(grad_z + batch * length * channels + cell, total, mask=mask)


@triton.jit
def _tile(length, channels, POSITIONS: tl.constexpr, BLOCK: tl.constexpr):
    """This program's batch element, positions (POSITIONS, 1), channels (1, BLOCK), and which of them there are."""
    channel = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[None, :]
    position = (tl.program_id(1) * POSITIONS + tl.arange(0, POSITIONS)).to(tl.int64)[:, None]
    return tl.program_id(2).to(tl.int64), position, channel, (position < length) & (channel < channels)


@triton.jit
def _silu_of(z, batch, position, channel, mask, z_batch, z_position):
    """The gate's factor; 1 where there is no gate."""
    factor = 1.0
    if z is not None:
        gate = tl.load(z + batch * z_batch + position * z_position + channel, mask=mask, other=0.0).to(tl.float32)
        factor = gate * tl.sigmoid(gate)
    return factor
