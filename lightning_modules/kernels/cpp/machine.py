"""What this processor can do at best: peak multiply-adds and memory bandwidth, measured now and with these threads."""

import ctypes
import time

import torch

from lightning_modules.kernels.cpp import library

_REPEATS = 2_000_000
_READ_ELEMENTS = 1 << 26  # 256 MiB, beyond any cache


def multiply_adds_per_second(threads: int, rounds: int = 3) -> float:
    """Float32 multiply-adds a second, one per lane, the best of some milliseconds-long rounds."""
    function = library.load().machine_multiply_add
    function.argtypes = (ctypes.c_int64, ctypes.c_int64)
    work = _REPEATS * library.load().machine_chains() * library.load().simd_lanes() * threads
    return work / min(_seconds(lambda: function(_REPEATS, threads)) for _ in range(rounds))


def bytes_per_second(threads: int, rounds: int = 3) -> float:
    """Bytes read from main memory a second, the best of some rounds."""
    function = library.load().machine_read
    function.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    data = torch.ones(_READ_ELEMENTS)
    work = data.numel() * data.element_size()
    return work / min(_seconds(lambda: function(data.data_ptr(), data.numel(), threads)) for _ in range(rounds))


def _seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
