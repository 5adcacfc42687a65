"""How the C library hands out memory, which decides what a training step on a CPU costs beyond its arithmetic."""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
NEVER = -1
"""As a threshold of trimming: all freed memory stays with the process."""
GROWTH_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Make malloc reuse large freed blocks instead of unmapping them; returns whether the C library took the setting.

    By default glibc maps every block of some megabytes anew, and the kernel clears each page at the first touch.
    Activations are allocated and freed in every step, so page faults can take a fifth of a small model's step. Results
    do not change, nor does the peak memory, but the process keeps that peak until it ends, or
    `memory.memory_held` gives it back.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc
        return False
    settings = ((MMAP_MAX, 0), (TRIM_THRESHOLD, NEVER), (TOP_PAD, GROWTH_BYTES))
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])
