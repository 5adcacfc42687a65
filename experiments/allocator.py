"""How the C library hands out memory, which decides what a training step on a CPU costs beyond its arithmetic."""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
NEVER = -1
"""As a threshold of trimming: all freed memory stays with the process."""
GROWTH_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Have large freed blocks reused rather than unmapped; whether the C library could be told so.

    By default glibc maps every block of megabytes anew, and the kernel clears each of its pages at the first touch:
    activations come and go every step, so that a fifth of a small model's step can be page faults. Numbers do not
    change. What the process holds at most does not either, but it holds on to it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc
        return False
    settings = ((MMAP_MAX, 0), (TRIM_THRESHOLD, NEVER), (TOP_PAD, GROWTH_BYTES))
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])
