"""What the machine can do at best, measured now: the floor that benchmarks stand beside."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lightning_modules.kernels import available
from lightning_modules.kernels.cpp.machine import bytes_per_second, multiply_adds_per_second
from lightning_modules.precision import exact_float32

_COPIED_ELEMENTS = 1 << 29  # 1 GiB, beyond any cache
_MATRIX = 8192


def limits(threads: int) -> dict[str, float | None]:
    """Float32 multiply-adds and bytes a second; of the GPU where there is one, else of the processor with so many
    threads, None where no compiler is at hand."""
    if torch.cuda.is_available():
        return {"multiply_adds_per_s": _gpu_multiply_adds(), "bytes_per_s": _gpu_bytes()}
    compiled = available()["selective_scan"]["cpp"] is None
    return {
        "multiply_adds_per_s": multiply_adds_per_second(threads) if compiled else None,
        "bytes_per_s": bytes_per_second(threads) if compiled else None,
    }


def _gpu_multiply_adds() -> float:
    """Of a large matrix product without tensor cores, which scans and convolutions cannot use."""
    a = torch.randn(_MATRIX, _MATRIX, device="cuda")
    out = torch.empty_like(a)
    with exact_float32(a.device):
        return _MATRIX**3 / _fastest(lambda: torch.mm(a, a, out=out))


def _gpu_bytes() -> float:
    """Read and written by a large copy."""
    source = torch.empty(_COPIED_ELEMENTS, dtype=torch.int16, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / _fastest(lambda: target.copy_(source))


def _fastest(call: Callable[[], object], rounds: int = 6) -> float:
    """Seconds on the GPU."""
    best = float("inf")
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        best = min(best, begin.elapsed_time(end) / 1e3)
    return best
