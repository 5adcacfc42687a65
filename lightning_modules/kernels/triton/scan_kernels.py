"""Triton kernels of the ordered selective scan. A program owns a block of channels, one direction of one batch element
and one segment of its positions; the (channels, states) tile stays in registers.

Steps beyond the last position are masked: no channel is below a limit of zero. (A vector mask combined with a scalar
one would say the same, but Triton's interpreter refuses that.)

Shapes: B batch, K directions, L positions, C channels, N states; S segments of SEGMENT positions, chunks of CHUNK.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _softplus(x):
    """log(1 + e^x); where e^x is small by its series, since 1 + e^x would round it away."""
    e = tl.exp(x)
    series = e * (1.0 - e * (0.5 - e * (0.33333334 - e * (0.25 - e * 0.2))))
    return tl.where(x > 20.0, x, tl.where(x < -4.0, series, tl.log(1.0 + e)))


@triton.jit
def _place(directions, length, channels, states, BLOCK: tl.constexpr, STATES: tl.constexpr):
    """This program's batch element, direction, segment, channels and states, with masks."""
    row = tl.program_id(2)
    batch, direction = row // directions, row % directions
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    state = tl.arange(0, STATES)
    tile = channel[:, None] * states + state[None, :]
    tile_mask = (channel < channels)[:, None] & (state < states)[None, :]
    return batch.to(tl.int64), direction.to(tl.int64), tl.program_id(1), channel, state, tile, tile_mask


@triton.jit
def _time_step(delta, offset, bias, mask, SOFTPLUS: tl.constexpr):
    """dt of a block of channels before and after softplus; zero (no step at all) where masked."""
    raw = tl.load(delta + offset, mask=mask, other=0.0).to(tl.float32) + bias
    dt = _softplus(raw) if SOFTPLUS else raw
    return raw, tl.where(mask, dt, 0.0)


@triton.jit
def summarise_segments(
    u, delta, A, B, bias, order, ends, totals,
    directions, length, channels, states,
    u_batch, u_direction, u_position, delta_batch, delta_direction, delta_position, B_batch, B_direction, B_position,
    SEGMENT: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """ends (S, B, K, C, N): state after each segment started from zero; totals (S, B, K, C): its sum of dt."""
    batch, direction, segment, channel, state, tile, tile_mask = _place(
        directions, length, channels, states, BLOCK, STATES
    )
    rate = tl.load(A + direction * channels * states + tile, mask=tile_mask, other=0.0) * LOG2E
    shift = tl.load(bias + direction * channels + channel, mask=channel < channels, other=0.0)
    h = tl.zeros((BLOCK, STATES), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for j in range(0, SEGMENT):
        step = segment * SEGMENT + j
        position = tl.load(order + direction * length + step, mask=step < length, other=0)
        mask = channel < tl.where(step < length, channels, 0)
        offset = batch * delta_batch + direction * delta_direction + position * delta_position + channel
        _, dt = _time_step(delta, offset, shift, mask, SOFTPLUS)
        u_offset = batch * u_batch + direction * u_direction + position * u_position + channel
        x = dt * tl.load(u + u_offset, mask=mask, other=0.0).to(tl.float32)
        B_row = B + batch * B_batch + direction * B_direction + position * B_position
        B_l = tl.load(B_row + state, mask=state < tl.where(step < length, states, 0), other=0.0).to(tl.float32)
        h = tl.exp2(dt[:, None] * rate) * h + x[:, None] * B_l[None, :]
        total += dt
    row = (segment * tl.num_programs(2) + tl.program_id(2)).to(tl.int64)
    tl.store(ends + row * channels * states + tile, h, mask=tile_mask)
    tl.store(totals + row * channels + channel, total, mask=channel < channels)


@triton.jit
def scan_forward(
    u, delta, A, B, C, D, bias, order, starts, y, checkpoints, final,
    directions, length, channels, states, chunks,
    u_batch, u_direction, u_position, delta_batch, delta_direction, delta_position,
    B_batch, B_direction, B_position, C_batch, C_direction, C_position,
    SEGMENT: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr,
    SOFTPLUS: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """y (B, K, L, C) with D u; checkpoints (B, K, chunks, C, N): state at the start of every chunk
    of every segment, of which the last may lie beyond the last position; final (B, K, C, N).

    starts: (S, B, K, C, N), state before each segment.
    """
    batch, direction, segment, channel, state, tile, tile_mask = _place(
        directions, length, channels, states, BLOCK, STATES
    )
    rate = tl.load(A + direction * channels * states + tile, mask=tile_mask, other=0.0) * LOG2E
    shift = tl.load(bias + direction * channels + channel, mask=channel < channels, other=0.0)
    skip = tl.load(D + direction * channels + channel, mask=channel < channels, other=0.0)
    program_row = tl.program_id(2).to(tl.int64)
    start = (segment * tl.num_programs(2) + program_row) * channels * states
    h = tl.load(starts + start + tile, mask=tile_mask, other=0.0)
    for index in range(0, SEGMENT // CHUNK):
        chunk = segment * (SEGMENT // CHUNK) + index
        if SAVE:
            saved = (program_row * chunks + chunk) * channels * states
            tl.store(checkpoints + saved + tile, h, mask=tile_mask)
        for j in range(0, CHUNK):
            step = chunk * CHUNK + j
            position = tl.load(order + direction * length + step, mask=step < length, other=0)
            mask = channel < tl.where(step < length, channels, 0)
            offset = batch * delta_batch + direction * delta_direction + position * delta_position + channel
            _, dt = _time_step(delta, offset, shift, mask, SOFTPLUS)
            u_offset = batch * u_batch + direction * u_direction + position * u_position + channel
            u_l = tl.load(u + u_offset, mask=mask, other=0.0).to(tl.float32)
            state_mask = state < tl.where(step < length, states, 0)
            B_row = B + batch * B_batch + direction * B_direction + position * B_position
            C_row = C + batch * C_batch + direction * C_direction + position * C_position
            B_l = tl.load(B_row + state, mask=state_mask, other=0.0).to(tl.float32)
            C_l = tl.load(C_row + state, mask=state_mask, other=0.0).to(tl.float32)
            h = tl.exp2(dt[:, None] * rate) * h + (dt * u_l)[:, None] * B_l[None, :]
            out = tl.sum(h * C_l[None, :], 1) + skip * u_l
            tl.store(y + (program_row * length + position) * channels + channel, out, mask=mask)
    if segment == tl.num_programs(1) - 1:
        tl.store(final + program_row * channels * states + tile, h, mask=tile_mask)


@triton.jit
def summarise_gradients(
    delta, A, C, bias, order, grad_y, carries,
    directions, length, channels, states,
    delta_batch, delta_direction, delta_position, C_batch, C_direction, C_position,
    grad_batch, grad_direction, grad_position,
    SEGMENT: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """carries (S, B, K, C, N): gradient of the state before each segment where none comes from behind it."""
    batch, direction, segment, channel, state, tile, tile_mask = _place(
        directions, length, channels, states, BLOCK, STATES
    )
    rate = tl.load(A + direction * channels * states + tile, mask=tile_mask, other=0.0) * LOG2E
    shift = tl.load(bias + direction * channels + channel, mask=channel < channels, other=0.0)
    carry = tl.zeros((BLOCK, STATES), tl.float32)
    for back in range(1, SEGMENT + 1):
        step = (segment + 1) * SEGMENT - back
        position = tl.load(order + direction * length + step, mask=step < length, other=0)
        mask = channel < tl.where(step < length, channels, 0)
        offset = batch * delta_batch + direction * delta_direction + position * delta_position + channel
        _, dt = _time_step(delta, offset, shift, mask, SOFTPLUS)
        grad_offset = batch * grad_batch + direction * grad_direction + position * grad_position + channel
        dy = tl.load(grad_y + grad_offset, mask=mask, other=0.0).to(tl.float32)
        C_row = C + batch * C_batch + direction * C_direction + position * C_position
        C_l = tl.load(C_row + state, mask=state < tl.where(step < length, states, 0), other=0.0).to(tl.float32)
        carry = tl.exp2(dt[:, None] * rate) * (carry + dy[:, None] * C_l[None, :])
    row = (segment * tl.num_programs(2) + tl.program_id(2)).to(tl.int64)
    tl.store(carries + row * channels * states + tile, carry, mask=tile_mask)


@triton.jit
def scan_backward(
    u, delta, A, B, C, D, bias, order, checkpoints, carries, grad_y, scratch,
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_start,
    directions, length, channels, states, chunks,
    u_batch, u_direction, u_position, delta_batch, delta_direction, delta_position,
    B_batch, B_direction, B_position, C_batch, C_direction, C_position, grad_batch, grad_direction, grad_position,
    SEGMENT: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Chunks from the last to the first, each recomputed from its checkpoint.

    carries: (S, B, K, C, N), gradient of the state after each segment. grad_u, grad_delta: (B, K, L, C).
    Partial sums: grad_A (S, B, K, C, N), grad_D, grad_bias (S, B, K, C), grad_B, grad_C (blocks, B, K, L, N).
    grad_start: (S, B, K, C, N). scratch: CHUNK tiles per program, the states before each step of a chunk.
    """
    batch, direction, segment, channel, state, tile, tile_mask = _place(
        directions, length, channels, states, BLOCK, STATES
    )
    natural = tl.load(A + direction * channels * states + tile, mask=tile_mask, other=0.0)
    rate = natural * LOG2E
    shift = tl.load(bias + direction * channels + channel, mask=channel < channels, other=0.0)
    skip = tl.load(D + direction * channels + channel, mask=channel < channels, other=0.0)
    program_row, rows = tl.program_id(2).to(tl.int64), tl.num_programs(2)
    segment_row = segment * rows + program_row
    carry = tl.load(carries + segment_row * channels * states + tile, mask=tile_mask, other=0.0)
    sum_A = tl.zeros((BLOCK, STATES), tl.float32)
    sum_D = tl.zeros((BLOCK,), tl.float32)
    sum_bias = tl.zeros((BLOCK,), tl.float32)
    own = (segment_row * tl.num_programs(0) + tl.program_id(0)) * CHUNK * BLOCK * STATES
    cell = tl.arange(0, BLOCK)[:, None] * STATES + tl.arange(0, STATES)[None, :]
    partial = (tl.program_id(0) * rows + program_row) * length
    for chunk_back in range(1, SEGMENT // CHUNK + 1):
        chunk = (segment + 1) * (SEGMENT // CHUNK) - chunk_back
        saved = (program_row * chunks + chunk) * channels * states
        h = tl.load(checkpoints + saved + tile, mask=tile_mask, other=0.0)
        for j in range(0, CHUNK):
            tl.store(scratch + own + j * BLOCK * STATES + cell, h)
            step = chunk * CHUNK + j
            position = tl.load(order + direction * length + step, mask=step < length, other=0)
            mask = channel < tl.where(step < length, channels, 0)
            offset = batch * delta_batch + direction * delta_direction + position * delta_position + channel
            _, dt = _time_step(delta, offset, shift, mask, SOFTPLUS)
            u_offset = batch * u_batch + direction * u_direction + position * u_position + channel
            x = dt * tl.load(u + u_offset, mask=mask, other=0.0).to(tl.float32)
            B_row = B + batch * B_batch + direction * B_direction + position * B_position
            B_l = tl.load(B_row + state, mask=state < tl.where(step < length, states, 0), other=0.0).to(tl.float32)
            h = tl.exp2(dt[:, None] * rate) * h + x[:, None] * B_l[None, :]
        tl.debug_barrier()
        for back in range(1, CHUNK + 1):
            j = CHUNK - back
            step = chunk * CHUNK + j
            position = tl.load(order + direction * length + step, mask=step < length, other=0)
            mask = channel < tl.where(step < length, channels, 0)
            state_mask = state < tl.where(step < length, states, 0)
            offset = batch * delta_batch + direction * delta_direction + position * delta_position + channel
            raw, dt = _time_step(delta, offset, shift, mask, SOFTPLUS)
            u_offset = batch * u_batch + direction * u_direction + position * u_position + channel
            u_l = tl.load(u + u_offset, mask=mask, other=0.0).to(tl.float32)
            grad_offset = batch * grad_batch + direction * grad_direction + position * grad_position + channel
            dy = tl.load(grad_y + grad_offset, mask=mask, other=0.0).to(tl.float32)
            B_row = B + batch * B_batch + direction * B_direction + position * B_position
            C_row = C + batch * C_batch + direction * C_direction + position * C_position
            B_l = tl.load(B_row + state, mask=state_mask, other=0.0).to(tl.float32)
            C_l = tl.load(C_row + state, mask=state_mask, other=0.0).to(tl.float32)
            before = tl.load(scratch + own + j * BLOCK * STATES + cell)
            x = dt * u_l
            decay = tl.exp2(dt[:, None] * rate)
            h = decay * before + x[:, None] * B_l[None, :]
            grad_h = carry + dy[:, None] * C_l[None, :]
            carry = decay * grad_h
            through_decay = carry * before
            grad_x = tl.sum(grad_h * B_l[None, :], 1)
            grad_dt = tl.sum(through_decay * natural, 1) + u_l * grad_x
            slope = tl.sigmoid(raw) if SOFTPLUS else 1.0
            grad_raw = tl.where(mask, grad_dt * slope, 0.0)
            sum_A += through_decay * dt[:, None]
            sum_D += dy * u_l
            sum_bias += grad_raw
            row = (program_row * length + position) * channels + channel
            tl.store(grad_u + row, dt * grad_x + skip * dy, mask=mask)
            tl.store(grad_delta + row, grad_raw, mask=mask)
            shared = (partial + position) * states + state
            tl.store(grad_B + shared, tl.sum(grad_h * x[:, None], 0), mask=state_mask)
            tl.store(grad_C + shared, tl.sum(h * dy[:, None], 0), mask=state_mask)
        tl.debug_barrier()
    tl.store(grad_A + segment_row * channels * states + tile, sum_A, mask=tile_mask)
    tl.store(grad_start + segment_row * channels * states + tile, carry, mask=tile_mask)
    tl.store(grad_D + segment_row * channels + channel, sum_D, mask=channel < channels)
    tl.store(grad_bias + segment_row * channels + channel, sum_bias, mask=channel < channels)
