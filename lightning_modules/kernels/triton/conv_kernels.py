"""Triton kernels of the short depthwise convolution with SiLU. A program owns a tile of positions and channels of one
batch element. What neighbouring taps share is read again from the cache, so memory sees every tensor once.

Shapes: B batch, L positions, C channels, TAPS taps; tiles of POSITIONS positions.
"""

import triton
import triton.language as tl


@triton.jit
def _place(POSITIONS: tl.constexpr, BLOCK: tl.constexpr):
    """This program's batch element, positions (POSITIONS, 1) and channels (1, BLOCK)."""
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    position = tl.program_id(1) * POSITIONS + tl.arange(0, POSITIONS)
    return tl.program_id(2).to(tl.int64), position.to(tl.int64)[:, None], channel[None, :]


@triton.jit
def _convolve(
    x, weight, bias, position, channel, length, channels, x_position,
    PAD_LEFT: tl.constexpr, TAPS: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Before the activation, (POSITIONS, BLOCK), float32. x: of the batch element."""
    inside = channel < channels
    total = tl.zeros((position.shape[0], channel.shape[1]), tl.float32)
    if BIAS:
        total += tl.load(bias + channel, mask=inside, other=0.0)
    for tap in tl.static_range(TAPS):
        source = position + (tap - PAD_LEFT)
        mask = (source >= 0) & (source < length) & inside
        x_tap = tl.load(x + source * x_position + channel, mask=mask, other=0.0).to(tl.float32)
        total += x_tap * tl.load(weight + channel * TAPS + tap, mask=inside, other=0.0)
    return total


@triton.jit
def conv_forward(
    x, weight, bias, y, length, channels, x_batch, x_position,
    PAD_LEFT: tl.constexpr, TAPS: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr,
    POSITIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y (B, L, C)."""
    batch, position, channel = _place(POSITIONS, BLOCK)
    x += batch * x_batch
    total = _convolve(x, weight, bias, position, channel, length, channels, x_position, PAD_LEFT, TAPS, BIAS)
    if SILU:
        total *= tl.sigmoid(total)
    row = batch * length + position
    tl.store(y + row * channels + channel, total, mask=(position < length) & (channel < channels))


@triton.jit
def conv_backward(
    x, weight, bias, grad_y, grad_x, grad_weight, grad_bias,
    length, channels, x_batch, x_position, grad_batch, grad_position,
    PAD_LEFT: tl.constexpr, TAPS: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr,
    POSITIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_x (B, L, C); sums over each tile's positions: grad_weight (B, tiles, TAPS, C), grad_bias (B, tiles, C)."""
    batch, position, channel = _place(POSITIONS, BLOCK)
    x += batch * x_batch
    grad_y += batch * grad_batch
    inside = channel < channels
    tile = batch * tl.num_programs(1) + tl.program_id(1)
    sums = tl.zeros((POSITIONS, BLOCK), tl.float32)
    for tap in tl.static_range(TAPS):
        # The output to which x[position] came through this tap.
        target = position + (PAD_LEFT - tap)
        mask = (target >= 0) & (target < length) & inside
        grad = tl.load(grad_y + target * grad_position + channel, mask=mask, other=0.0).to(tl.float32)
        if SILU:
            total = _convolve(x, weight, bias, target, channel, length, channels, x_position, PAD_LEFT, TAPS, BIAS)
            slope = tl.sigmoid(total)
            grad = tl.where(mask, grad * slope * (1.0 + total * (1.0 - slope)), 0.0)
        sums += grad * tl.load(weight + channel * TAPS + tap, mask=inside, other=0.0)
        if tap == PAD_LEFT:  # the program's own positions
            if BIAS:
                tl.store(grad_bias + tile * channels + channel, tl.sum(grad, 0)[None, :], mask=inside)
            for other in tl.static_range(TAPS):
                source = position + (other - PAD_LEFT)
                read = (source >= 0) & (source < length) & inside
                x_tap = tl.load(x + source * x_position + channel, mask=read, other=0.0).to(tl.float32)
                to = grad_weight + (tile * TAPS + other) * channels + channel
                tl.store(to, tl.sum(x_tap * grad, 0)[None, :], mask=inside)
    row = batch * length + position
    tl.store(grad_x + row * channels + channel, sums, mask=(position < length) & inside)
