"""Triton kernels of the ordered selective scan. A program owns a block of channels, one direction of one batch element
and one segment of its positions; the (channels, states) tile stays in registers.

A step is a chain of dependent operations, and few programs share a multiprocessor. What a step reads is therefore asked
for one step ahead and not touched before its turn, so that memory answers while the step before is computed.

Steps beyond the last position are masked: no channel is below a limit of zero. (A vector mask combined with a scalar
one would say the same, but Triton's interpreter refuses that.)

Shapes: B batch, K directions, L positions, C channels, N states; S segments of SEGMENT positions, chunks of CHUNK.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _softplus(x):
    """log(1 + e^x); where e^x is small by its series, since 1 + e^x would round it away."""
    e = tl.exp(x)
    series = e * (1.0 - e * (0.5 - e * (0.33333334 - e * (0.25 - e * 0.2))))
    return tl.where(x > 20.0, x, tl.where(x < -4.0, series, tl.log(1.0 + e)))


@triton.jit
def _place(directions, channels, states, BLOCK: tl.constexpr, STATES: tl.constexpr):
    """This program's row (batch element and direction), channels and states, with masks."""
    row = tl.program_id(2)
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    state = tl.arange(0, STATES)
    tile = channel[:, None] * states + state[None, :]
    tile_mask = (channel < channels)[:, None] & (state < states)[None, :]
    batch, direction = row // directions, row % directions
    return row.to(tl.int64), batch.to(tl.int64), direction.to(tl.int64), channel, state, tile, tile_mask


@triton.jit
def _place_by_lanes(directions, channels, states, BLOCK: tl.constexpr, STATES: tl.constexpr):
    """As `_place`, with the tile turned, (STATES, BLOCK), and the same offsets once more, to read it at.

    A tile that was read at those lies in the lanes channel by channel: sums over states stay inside a lane, and what a
    position brings for a channel is already there. Triton spreads a tile as its memory is best read; told that nothing
    of it is contiguous, along the last axis. Other offsets would pass every step through shared memory.
    """
    row, batch, direction, channel, state, _, _ = _place(directions, channels, states, BLOCK, STATES)
    tile = channel[None, :] * states + state[:, None]
    by_lanes = tl.max_contiguous(channel[None, :] * states + state[:, None], [1, 1])
    tile_mask = (state < states)[:, None] & (channel < channels)[None, :]
    return row, batch, direction, channel, state, tile, tile_mask, by_lanes


@triton.jit
def _parameter(values, direction, channel, channels):
    """A parameter (K, C) of these channels; zero where there is none."""
    value = 0.0
    if values is not None:
        value = tl.load(values + direction * channels + channel, mask=channel < channels, other=0.0)
    return value


@triton.jit
def _visited(order, backwards, direction, step, length):
    """Storage position of a step; any number where there is no such step. backwards: bit k for direction k."""
    if order is not None:
        inside = (step >= 0) & (step < length)
        position = tl.load(order + direction * length + step, mask=inside, other=0)
    else:
        position = tl.where(((backwards >> direction) & 1) != 0, length - 1 - step, step)
    return position


@triton.jit
def _count(step, length, size):
    """How many of `size` entries a step has: all, or none where there is no such step."""
    return tl.where((step >= 0) & (step < length), size, 0)


@triton.jit
def _row(tensor, position, stride, index, count):
    """What stands at a position, in its own dtype: a conversion would wait for the memory."""
    return tl.load(tensor + position * stride + index, mask=index < count, other=0.0)


@triton.jit
def _time_step(raw, mask, SOFTPLUS: tl.constexpr):
    """dt of a block of channels; zero (no step at all) where masked."""
    return tl.where(mask, _softplus(raw) if SOFTPLUS else raw, 0.0)


@triton.jit
def summarise_segments(
    u, delta, A, B, bias, order, ends, totals,
    directions, length, channels, states, backwards,
    u_batch, u_direction, u_position, delta_batch, delta_direction, delta_position, B_batch, B_direction, B_position,
    SEGMENT: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """ends (S, B, K, C, N): state after each segment started from zero; totals (S, B, K, C): its sum of dt."""
    row, batch, direction, channel, state, tile, tile_mask, by_lanes = _place_by_lanes(
        directions, channels, states, BLOCK, STATES
    )
    rate = tl.load(A + direction * channels * states + by_lanes, mask=tile_mask, other=0.0) * LOG2E
    shift = _parameter(bias, direction, channel, channels)
    u += batch * u_batch + direction * u_direction
    delta += batch * delta_batch + direction * delta_direction
    B += batch * B_batch + direction * B_direction
    h = tl.zeros((STATES, BLOCK), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    step = tl.program_id(1) * SEGMENT
    position = _visited(order, backwards, direction, step, length)
    following = _visited(order, backwards, direction, step + 1, length)
    count = _count(step, length, channels)
    delta_l = _row(delta, position, delta_position, channel, count)
    u_l = _row(u, position, u_position, channel, count)
    B_l = _row(B, position, B_position, state, _count(step, length, states))
    for _ in range(0, SEGMENT):
        ahead = _count(step + 1, length, channels)
        next_delta = _row(delta, following, delta_position, channel, ahead)
        next_u = _row(u, following, u_position, channel, ahead)
        next_B = _row(B, following, B_position, state, _count(step + 1, length, states))
        following = _visited(order, backwards, direction, step + 2, length)
        dt = _time_step(delta_l.to(tl.float32) + shift, channel < _count(step, length, channels), SOFTPLUS)
        x = dt * u_l.to(tl.float32)
        h = tl.exp2(dt[None, :] * rate) * h + x[None, :] * B_l.to(tl.float32)[:, None]
        total += dt
        delta_l, u_l, B_l = next_delta, next_u, next_B
        step += 1
    segment_row = tl.program_id(1) * tl.num_programs(2) + row
    tl.store(ends + segment_row * channels * states + tile, h, mask=tile_mask)
    tl.store(totals + segment_row * channels + channel, total, mask=channel < channels)


@triton.jit
def chain_segments(
    ends, totals, A, border, states_at, directions, channels, states, segments,
    BACKWARDS: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """states_at (S, B, K, C, N): the state before each segment, or for gradients, BACKWARDS, the one after it, from
    what each segment adds on its own, ends (S, B, K, C, N), and its decay from end to end, exp(A totals).

    border: (B, K, C, N), the state at the end where the chain begins; None: zero. The grid has one segment.
    """
    row, _, direction, channel, _, tile, tile_mask = _place(directions, channels, states, BLOCK, STATES)
    rate = tl.load(A + direction * channels * states + tile, mask=tile_mask, other=0.0) * LOG2E
    rows = tl.num_programs(2)
    h = tl.zeros((BLOCK, STATES), tl.float32)
    if border is not None:
        h = tl.load(border + row * channels * states + tile, mask=tile_mask, other=0.0)
    index = row * 0 + (segments - 1 if BACKWARDS else 0)
    for _ in range(0, segments - 1):
        at = index * rows + row
        total = tl.load(totals + at * channels + channel, mask=channel < channels, other=0.0)
        end = tl.load(ends + at * channels * states + tile, mask=tile_mask, other=0.0)
        tl.store(states_at + at * channels * states + tile, h, mask=tile_mask)
        h = tl.exp2(total[:, None] * rate) * h + end
        index += -1 if BACKWARDS else 1
    tl.store(states_at + (index * rows + row) * channels * states + tile, h, mask=tile_mask)


@triton.jit
def scan_forward(
    u, delta, A, B, C, D, bias, order, starts, y, checkpoints, final,
    directions, length, channels, states, backwards, chunks,
    u_batch, u_direction, u_position, delta_batch, delta_direction, delta_position,
    B_batch, B_direction, B_position, C_batch, C_direction, C_position,
    SEGMENT: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """y (B, K, L, C) with D u; checkpoints (B, K, chunks, C, N), or None: state at the start of every chunk of every
    segment, of which the last may lie beyond the last position; final (B, K, C, N), or None.

    starts: (S, B, K, C, N), state before each segment; None: zero.
    """
    row, batch, direction, channel, state, tile, tile_mask, by_lanes = _place_by_lanes(
        directions, channels, states, BLOCK, STATES
    )
    segment, rows = tl.program_id(1), tl.num_programs(2)
    rate = tl.load(A + direction * channels * states + by_lanes, mask=tile_mask, other=0.0) * LOG2E
    shift = _parameter(bias, direction, channel, channels)
    skip = _parameter(D, direction, channel, channels)
    h = tl.zeros((STATES, BLOCK), tl.float32)
    if starts is not None:
        h = tl.load(starts + (segment * rows + row) * channels * states + by_lanes, mask=tile_mask, other=0.0)
    u += batch * u_batch + direction * u_direction
    delta += batch * delta_batch + direction * delta_direction
    B += batch * B_batch + direction * B_direction
    C += batch * C_batch + direction * C_direction
    y += row * length * channels
    step = segment * SEGMENT
    position = _visited(order, backwards, direction, step, length)
    following = _visited(order, backwards, direction, step + 1, length)
    count, state_count = _count(step, length, channels), _count(step, length, states)
    delta_l = _row(delta, position, delta_position, channel, count)
    u_l = _row(u, position, u_position, channel, count)
    B_l = _row(B, position, B_position, state, state_count)
    C_l = _row(C, position, C_position, state, state_count)
    for _ in range(0, SEGMENT):
        if checkpoints is not None:
            if step % CHUNK == 0:
                saved = (row * chunks + step // CHUNK) * channels * states
                tl.store(checkpoints + saved + tile, h, mask=tile_mask)
        ahead, state_ahead = _count(step + 1, length, channels), _count(step + 1, length, states)
        next_delta = _row(delta, following, delta_position, channel, ahead)
        next_u = _row(u, following, u_position, channel, ahead)
        next_B = _row(B, following, B_position, state, state_ahead)
        next_C = _row(C, following, C_position, state, state_ahead)
        after_next = _visited(order, backwards, direction, step + 2, length)
        mask = channel < _count(step, length, channels)
        dt = _time_step(delta_l.to(tl.float32) + shift, mask, SOFTPLUS)
        wide = u_l.to(tl.float32)
        h = tl.exp2(dt[None, :] * rate) * h + (dt * wide)[None, :] * B_l.to(tl.float32)[:, None]
        out = tl.sum(h * C_l.to(tl.float32)[:, None], 0) + skip * wide
        tl.store(y + position * channels + channel, out, mask=mask)
        delta_l, u_l, B_l, C_l = next_delta, next_u, next_B, next_C
        position, following = following, after_next
        step += 1
    if final is not None:
        if segment == tl.num_programs(1) - 1:
            tl.store(final + row * channels * states + tile, h, mask=tile_mask)


@triton.jit
def summarise_gradients(
    delta, A, C, bias, order, grad_y, carries, totals,
    directions, length, channels, states, backwards,
    delta_batch, delta_direction, delta_position, C_batch, C_direction, C_position,
    grad_batch, grad_direction, grad_position,
    SEGMENT: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """carries (S, B, K, C, N): gradient of the state before each segment where none comes from behind it; totals
    (S, B, K, C): its sum of dt."""
    row, batch, direction, channel, state, tile, tile_mask, by_lanes = _place_by_lanes(
        directions, channels, states, BLOCK, STATES
    )
    rate = tl.load(A + direction * channels * states + by_lanes, mask=tile_mask, other=0.0) * LOG2E
    shift = _parameter(bias, direction, channel, channels)
    delta += batch * delta_batch + direction * delta_direction
    C += batch * C_batch + direction * C_direction
    grad_y += batch * grad_batch + direction * grad_direction
    carry = tl.zeros((STATES, BLOCK), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    step = (tl.program_id(1) + 1) * SEGMENT - 1
    position = _visited(order, backwards, direction, step, length)
    following = _visited(order, backwards, direction, step - 1, length)
    count = _count(step, length, channels)
    delta_l = _row(delta, position, delta_position, channel, count)
    dy_l = _row(grad_y, position, grad_position, channel, count)
    C_l = _row(C, position, C_position, state, _count(step, length, states))
    for _ in range(0, SEGMENT):
        ahead = _count(step - 1, length, channels)
        next_delta = _row(delta, following, delta_position, channel, ahead)
        next_dy = _row(grad_y, following, grad_position, channel, ahead)
        next_C = _row(C, following, C_position, state, _count(step - 1, length, states))
        following = _visited(order, backwards, direction, step - 2, length)
        dt = _time_step(delta_l.to(tl.float32) + shift, channel < _count(step, length, channels), SOFTPLUS)
        through_y = dy_l.to(tl.float32)[None, :] * C_l.to(tl.float32)[:, None]
        carry = tl.exp2(dt[None, :] * rate) * (carry + through_y)
        total += dt
        delta_l, dy_l, C_l = next_delta, next_dy, next_C
        step -= 1
    segment_row = tl.program_id(1) * tl.num_programs(2) + row
    tl.store(carries + segment_row * channels * states + tile, carry, mask=tile_mask)
    tl.store(totals + segment_row * channels + channel, total, mask=channel < channels)


@triton.jit
def scan_backward(
    u, delta, A, B, C, D, bias, order, checkpoints, carries, grad_y, scratch,
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_start,
    directions, length, channels, states, backwards, chunks,
    u_batch, u_direction, u_position, delta_batch, delta_direction, delta_position,
    B_batch, B_direction, B_position, C_batch, C_direction, C_position, grad_batch, grad_direction, grad_position,
    SEGMENT: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Chunks from the last to the first, each recomputed from its checkpoint.

    carries: (S, B, K, C, N), gradient of the state after each segment; None: zero. grad_u, grad_delta: (B, K, L, C).
    Partial sums: grad_A (S, B, K, C, N), grad_D, grad_bias (S, B, K, C), grad_B, grad_C (blocks, B, K, L, N).
    grad_start: (B, K, C, N), or None. scratch: CHUNK tiles per program, the states before each step of a chunk.
    """
    row, batch, direction, channel, state, tile, tile_mask = _place(directions, channels, states, BLOCK, STATES)
    segment, rows = tl.program_id(1), tl.num_programs(2)
    rate = tl.load(A + direction * channels * states + tile, mask=tile_mask, other=0.0) * LOG2E
    shift = _parameter(bias, direction, channel, channels)
    skip = _parameter(D, direction, channel, channels)
    segment_row = segment * rows + row
    carry = tl.zeros((BLOCK, STATES), tl.float32)
    if carries is not None:
        carry = tl.load(carries + segment_row * channels * states + tile, mask=tile_mask, other=0.0)
    sum_A = tl.zeros((BLOCK, STATES), tl.float32)
    sum_D = tl.zeros((BLOCK,), tl.float32)
    sum_bias = tl.zeros((BLOCK,), tl.float32)
    u += batch * u_batch + direction * u_direction
    delta += batch * delta_batch + direction * delta_direction
    B += batch * B_batch + direction * B_direction
    C += batch * C_batch + direction * C_direction
    grad_y += batch * grad_batch + direction * grad_direction
    grad_u += row * length * channels
    grad_delta += row * length * channels
    scratch += (segment_row * tl.num_programs(0) + tl.program_id(0)) * CHUNK * BLOCK * STATES
    cell = tl.arange(0, BLOCK)[:, None] * STATES + tl.arange(0, STATES)[None, :]
    partial = (tl.program_id(0) * rows + row) * length
    for chunk_back in range(1, SEGMENT // CHUNK + 1):
        chunk = (segment + 1) * (SEGMENT // CHUNK) - chunk_back
        step = chunk * CHUNK
        h = tl.load(checkpoints + (row * chunks + chunk) * channels * states + tile, mask=tile_mask, other=0.0)
        position = _visited(order, backwards, direction, step, length)
        following = _visited(order, backwards, direction, step + 1, length)
        count = _count(step, length, channels)
        delta_l = _row(delta, position, delta_position, channel, count)
        u_l = _row(u, position, u_position, channel, count)
        B_l = _row(B, position, B_position, state, _count(step, length, states))
        for j in range(0, CHUNK):
            tl.store(scratch + j * BLOCK * STATES + cell, h)
            ahead = _count(step + 1, length, channels)
            next_delta = _row(delta, following, delta_position, channel, ahead)
            next_u = _row(u, following, u_position, channel, ahead)
            next_B = _row(B, following, B_position, state, _count(step + 1, length, states))
            following = _visited(order, backwards, direction, step + 2, length)
            dt = _time_step(delta_l.to(tl.float32) + shift, channel < _count(step, length, channels), SOFTPLUS)
            x = dt * u_l.to(tl.float32)
            h = tl.exp2(dt[:, None] * rate) * h + x[:, None] * B_l.to(tl.float32)[None, :]
            delta_l, u_l, B_l = next_delta, next_u, next_B
            step += 1
        tl.debug_barrier()
        step -= 1
        position = _visited(order, backwards, direction, step, length)
        following = _visited(order, backwards, direction, step - 1, length)
        count, state_count = _count(step, length, channels), _count(step, length, states)
        delta_l = _row(delta, position, delta_position, channel, count)
        u_l = _row(u, position, u_position, channel, count)
        dy_l = _row(grad_y, position, grad_position, channel, count)
        B_l = _row(B, position, B_position, state, state_count)
        C_l = _row(C, position, C_position, state, state_count)
        for back in range(1, CHUNK + 1):
            before = tl.load(scratch + (CHUNK - back) * BLOCK * STATES + cell)
            ahead, state_ahead = _count(step - 1, length, channels), _count(step - 1, length, states)
            next_delta = _row(delta, following, delta_position, channel, ahead)
            next_u = _row(u, following, u_position, channel, ahead)
            next_dy = _row(grad_y, following, grad_position, channel, ahead)
            next_B = _row(B, following, B_position, state, state_ahead)
            next_C = _row(C, following, C_position, state, state_ahead)
            after_next = _visited(order, backwards, direction, step - 2, length)
            mask = channel < _count(step, length, channels)
            raw = delta_l.to(tl.float32) + shift
            dt = _time_step(raw, mask, SOFTPLUS)
            wide_u, dy = u_l.to(tl.float32), dy_l.to(tl.float32)
            wide_B, wide_C = B_l.to(tl.float32)[None, :], C_l.to(tl.float32)[None, :]
            x = dt * wide_u
            decay = tl.exp2(dt[:, None] * rate)
            h = decay * before + x[:, None] * wide_B
            grad_h = carry + dy[:, None] * wide_C
            carry = decay * grad_h
            through_decay = carry * before
            grad_x = tl.sum(grad_h * wide_B, 1)
            grad_dt = tl.sum(through_decay * rate, 1) * LN2 + wide_u * grad_x
            grad_raw = tl.where(mask, grad_dt * tl.sigmoid(raw) if SOFTPLUS else grad_dt, 0.0)
            sum_A += through_decay * dt[:, None]
            sum_D += dy * wide_u
            sum_bias += grad_raw
            tl.store(grad_u + position * channels + channel, dt * grad_x + skip * dy, mask=mask)
            tl.store(grad_delta + position * channels + channel, grad_raw, mask=mask)
            shared, state_mask = (partial + position) * states + state, state < _count(step, length, states)
            tl.store(grad_B + shared, tl.sum(grad_h * x[:, None], 0), mask=state_mask)
            tl.store(grad_C + shared, tl.sum(h * dy[:, None], 0), mask=state_mask)
            delta_l, u_l, dy_l, B_l, C_l = next_delta, next_u, next_dy, next_B, next_C
            position, following = following, after_next
            step -= 1
        tl.debug_barrier()
    tl.store(grad_A + segment_row * channels * states + tile, sum_A, mask=tile_mask)
    if grad_start is not None:
        if segment == 0:
            tl.store(grad_start + row * channels * states + tile, carry, mask=tile_mask)
    if grad_D is not None:
        tl.store(grad_D + segment_row * channels + channel, sum_D, mask=channel < channels)
    if grad_bias is not None:
        tl.store(grad_bias + segment_row * channels + channel, sum_bias, mask=channel < channels)
