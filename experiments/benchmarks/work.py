"""What a call has to do at least, and how long that takes: the floor beside a benchmark's times.

Shapes: B batch, K directions, L positions, C channels, N states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks.bench import FORWARD, TRAINING
from experiments.benchmarks.measure import floor_ms
from lightning_modules import kernels  # noqa: F401  (defines torch.ops.ablate)

FLOAT_BYTES = 4
NOTE = "floor: multiply-adds at the measured peak or bytes at the measured bandwidth, whichever is longer"


def scan_work(positions: int, states: int, backward: bool = False) -> int:
    """Vector multiply-add instructions that any kernel of the selective scan needs for `positions` = B K L C.

    Forward, per state: dt A, 5 for the exponential's polynomial, input times B, state, output; per channel: softplus
    16, dt u, D u. Backward, per state: 7 to recompute, then state gradient, dC, dB, du, carry, decay gradient, d dt,
    dA; per channel: softplus and its slope 18, dt u, du 2, d dt 2, dD.
    """
    per_state, per_channel = (15, 24) if backward else (9, 18)
    return positions * (per_state * states + per_channel)


def conv_work(positions: int, taps: int, silu: bool = True, backward: bool = False) -> int:
    """The same of a depthwise convolution, for `positions` = B L C: taps, SiLU 8; backward the same again, then slope 4
    and 2 per tap."""
    forward = taps + (8 if silu else 0)
    return positions * (forward + 2 * taps + (4 if silu else 0) if backward else forward)


def ssd_work(batch: int, length: int, heads: int, width: int, states: int, backward: bool = False) -> int:
    """Multiply-adds of state space duality, by the cheaper of its forms: products with all earlier positions, or with a
    state. Backward as many again for each factor, and the scores once more."""
    seen = (length + 1) / 2
    if backward:
        return round(batch * length * min(seen * (2 * heads * width + 3 * states), 4 * heads * width * states))
    return round(batch * length * min(seen * (heads * width + states), 2 * heads * width * states))


def multiply_adds(call: Callable[[], object]) -> int:
    """Of one call: those of its matrix products and attention, and the work of the suite's kernels."""
    with FlopCounterMode(display=False, custom_mapping=_KERNELS) as counter:
        call()
    return counter.get_total_flops() // 2


def floors(
    machine: Mapping[str, Any], multiply_adds: tuple[int, int], numbers: tuple[int, int]
) -> dict[str, float | None]:
    """Phase -> floor in milliseconds.

    Args:
        multiply_adds: forward, and what backward adds.
        numbers: float32 ones moved to or from memory, forward, and what backward adds.
    """
    (forward, backward), (moved, moved_back) = multiply_adds, numbers
    return {
        FORWARD: floor_ms(machine, multiply_adds=forward, bytes_moved=FLOAT_BYTES * moved),
        TRAINING: floor_ms(machine, multiply_adds=forward + backward, bytes_moved=FLOAT_BYTES * (moved + moved_back)),
    }


def floors_of_products(
    machine: Mapping[str, Any], multiply_adds: tuple[int, int], numbers: tuple[int, int]
) -> dict[str, float | None]:
    """`floors`; none on a GPU, whose tensor cores multiply matrices at another rate than the measured one."""
    if torch.cuda.is_available():
        return dict.fromkeys((FORWARD, TRAINING))
    return floors(machine, multiply_adds, numbers)


def floor_of(machine: Mapping[str, Any], call: Callable[[], object], numbers: int) -> float | None:
    """Floor in milliseconds of a call that moves so many float32 numbers at least; None on a GPU, whose tensor cores
    multiply at another rate than the measured one."""
    if torch.cuda.is_available():
        return None
    return floor_ms(machine, multiply_adds=multiply_adds(call), bytes_moved=FLOAT_BYTES * numbers)


def layer_moves(parameters: int, activations: int) -> dict[str, int]:
    """Phase -> numbers that a layer moves at least: weights and input read, output written; then both read once more
    with the output's gradient, and the gradients of weights and input written.

    Args:
        activations: of its input, and as many of its output.
    """
    forward = parameters + 2 * activations
    return {FORWARD: forward, TRAINING: forward + 2 * parameters + 3 * activations}


# As FlopCounterMode wants them: of the operators' arguments, tensors as their shapes, two for a multiply-add.
def _scan(u, delta, A, *_, **__) -> int:
    return 2 * scan_work(math.prod(delta), A[-1])


def _scan_backward(u, delta, A, *_, **__) -> int:
    return 2 * scan_work(math.prod(delta), A[-1], backward=True)


def _conv(x, weight, bias, pad_left, silu, *_, **__) -> int:
    return 2 * conv_work(math.prod(x), weight[-1], silu)


def _conv_backward(x, weight, bias, grad_y, pad_left, silu, *_, **__) -> int:
    return 2 * conv_work(math.prod(x), weight[-1], silu, backward=True)


def _ssd(x, dt, A, B, *_, **__) -> int:
    batch, length, heads, width = x
    return 2 * ssd_work(batch, length, heads, width, B[-1])


def _ssd_backward(x, dt, A, B, *_, **__) -> int:
    batch, length, heads, width = x
    return 2 * ssd_work(batch, length, heads, width, B[-1], backward=True)


_KERNELS = {
    torch.ops.ablate.ssd: _ssd,
    torch.ops.ablate.ssd_backward: _ssd_backward,
    torch.ops.ablate.selective_scan: _scan,
    torch.ops.ablate.selective_scan_backward: _scan_backward,
    torch.ops.ablate.depthwise_conv1d: _conv,
    torch.ops.ablate.depthwise_conv1d_backward: _conv_backward,
}
