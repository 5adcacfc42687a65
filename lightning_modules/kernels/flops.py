"""Floating-point operations of the kernels: the one place that counts them. Free of torch, for planners and reports.

A multiplication, an addition and an exponential count one each.
"""

# The backward recomputes the states and then runs about twice the forward's work.
BACKWARD_FACTOR = 3


def selective_scan(batch: int, directions: int, length: int, channels: int, states: int, *, gate: bool = False) -> int:
    """Per state and position 7: dt A, exp, decay times state, input times B, their sum, times C, sum over states.

    Per channel and position 5 (dt u, D u and its addition, bias, softplus), and 5 more for a SiLU gate per output.
    """
    positions = batch * directions * length * channels
    return positions * (7 * states + 5) + (5 * batch * length * channels if gate else 0)


def depthwise_conv1d(batch: int, length: int, channels: int, taps: int, *, silu: bool = True) -> int:
    """A multiplication and an addition per tap, 4 more for SiLU."""
    return batch * length * channels * (2 * taps + (4 if silu else 0))


def selective_state_update(batch: int, channels: int, states: int, *, gate: bool = False) -> int:
    """One position of a selective scan."""
    return selective_scan(batch, 1, 1, channels, states, gate=gate)


def ssd(batch: int, length: int, heads: int, width: int, states: int, *, chunk: int = 64) -> int:
    """Matrix products of the chunked form: C B^T, weights times x, states left behind and seen (2 per multiply-add)."""
    chunk = min(chunk, length)
    return 2 * batch * length * (chunk * states + heads * width * (chunk + 2 * states))
