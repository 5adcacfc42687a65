"""What this processor can do at best: peak multiply-adds and memory bandwidth, measured now and with these threads."""

import ctypes
import time
from collections.abc import Callable

import torch

from lightning_modules.kernels.cpp import library

_REPEATS = 2_000_000
_READ_BYTES = 1 << 28  # beyond any cache
_SECONDS = 1.0
"""Of rounds, the best of which counts: on a shared machine a few milliseconds may all fall into a busy moment."""


def multiply_adds_per_second(threads: int) -> float:
    """Float32 multiply-adds a second, one per lane, the best of some milliseconds-long rounds."""
    function = library.load().machine_multiply_add
    function.argtypes = (ctypes.c_int64, ctypes.c_int64)
    work = _REPEATS * library.load().machine_chains() * library.load().simd_lanes() * threads
    return work / _fastest(lambda: function(_REPEATS, threads))


def bytes_per_second(threads: int) -> float:
    """Bytes read from main memory a second, the best of some rounds."""
    return _READ_BYTES / _fastest(reader(_READ_BYTES, threads))


def reader(size: int, threads: int) -> Callable[[], object]:
    """A call that reads so many bytes once, up to a few pages."""
    function = library.load().machine_read
    function.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    data = torch.ones(size // torch.float32.itemsize)
    return lambda: function(data.data_ptr(), data.numel(), threads)


def _fastest(function: Callable[[], object]) -> float:
    """Seconds of the fastest call."""
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while (start := time.perf_counter()) < end:
        function()
        best = min(best, time.perf_counter() - start)
    return best
