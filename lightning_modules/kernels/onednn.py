"""Matrix products by oneDNN, which comes with PyTorch, and where they gain.

PyTorch itself multiplies float32 with MKL, which keeps AVX-512 for Intel's processors: on others it reaches less than
half of their peak, oneDNN four fifths.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor

SMALLEST = 2**21
"""Multiply-adds from which a product gains; below, the longer way there costs more."""


@functools.cache
def missing() -> str | None:
    """None where PyTorch has the product, else why not."""
    found = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return None if found else "this PyTorch comes without oneDNN"


def gains() -> bool:
    """Whether large products in float32 are faster than PyTorch's own on this processor."""
    return _gains()


@functools.cache
def _gains() -> bool:
    try:
        vendor = Path("/proc/cpuinfo").read_text().partition("vendor_id")[2].splitlines()[0]
    except (OSError, IndexError):
        return False
    mkl, capability = torch.backends.mkl.is_available(), torch.backends.cpu.get_cpu_capability()
    return mkl and capability.startswith("AVX512") and "GenuineIntel" not in vendor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x: (..., I), weight: (O, I), bias: (O,), all float32 and of any strides -> (..., O)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
