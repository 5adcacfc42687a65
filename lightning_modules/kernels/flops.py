"""Floating-point operations of the kernels: the one place that counts them. Free of torch, for planners and reports.

A multiplication, an addition and an exponential count one each.
"""

# The backward recomputes the states and then runs about twice the forward's work.
BACKWARD_FACTOR = 3


def selective_scan(batch: int, directions: int, length: int, channels: int, states: int, *, gates: int = 0) -> int:
    """Per state and position 7: dt A, exp, decay times state, input times B, their sum, times C, sum over states.

    Per channel and position 5 (dt u, D u and its addition, bias, softplus), and 5 more for each output
    that a SiLU gate multiplies: `gates` of them, 1 for the sum of the directions, `directions` where they stay apart.
    """
    positions = batch * directions * length * channels
    return positions * (7 * states + 5) + 5 * gates * batch * length * channels


def depthwise_conv1d(batch: int, length: int, channels: int, taps: int, *, silu: bool = True) -> int:
    """A multiplication and an addition per tap, 4 more for SiLU."""
    return batch * length * channels * (2 * taps + (4 if silu else 0))


def selective_state_update(batch: int, channels: int, states: int, *, gate: bool = False) -> int:
    """One position of a selective scan."""
    return selective_scan(batch, 1, 1, channels, states, gates=int(gate))


def ssd(batch: int, length: int, heads: int, width: int, states: int, *, chunk: int, from_zero: bool = True) -> int:
    """Matrix products over whole chunks: C B^T, weights times x, states left behind and seen (2 per multiply-add).

    Where a single chunk starts from a zero state there is nothing to be seen.
    """
    chunk, positions, alone = _chunks(batch, length, chunk)
    exchanges = 1 if alone and from_zero else 2
    return 2 * positions * (chunk * states + heads * width * (chunk + exchanges * states))


def ssd_backward(
    batch: int, length: int, heads: int, width: int, states: int, *, chunk: int, from_zero: bool = True
) -> int:
    """C B^T once more, and of each product the gradients of both factors; none of a final state without gradient."""
    chunk, positions, alone = _chunks(batch, length, chunk)
    exchanges = 0 if alone and from_zero else 4
    return 2 * positions * (3 * chunk * states + heads * width * (2 * chunk + exchanges * states))


def _chunks(batch: int, length: int, chunk: int) -> tuple[int, int, bool]:
    """Positions of a chunk and of all chunks of the batch, and whether a sequence is one chunk."""
    chunk = min(chunk, length)
    count = -(-length // chunk)
    return chunk, batch * count * chunk, count == 1
