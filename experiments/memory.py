"""The memory that this process holds, now and at most: on the GPU where one is in use, else resident."""

from __future__ import annotations

import ctypes
import gc
import re
import resource
import sys
from pathlib import Path

import torch


def memory_held() -> int | None:
    """Bytes held now, on the GPU where one is in use, else resident; None where the system does not tell."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # give freed memory back, so that what comes next shows
        return _resident("VmRSS")
    except (OSError, AttributeError):
        return None


def reset_peak_memory() -> int | None:
    """Forget the most memory that was held so far; `memory_held` now, or None where the system does not forget."""
    held, on_gpu = memory_held(), torch.cuda.is_initialized()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return held if on_gpu else None
    return held


def peak_memory_bytes() -> int:
    """Most memory this process held since `reset_peak_memory`, or ever where the system does not forget: on the GPU
    where one was used, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:
        return _resident("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if match is None:
        raise OSError(f"no {field} in /proc/self/status")
    return int(match[1]) * 1024
