"""Whether Triton kernels can run here; imports neither triton nor a driver before it is asked."""

import functools
import importlib.util
import os

import torch

MAX_TAPS = 9
"""Of a convolution: the backward unrolls taps x taps reads."""


def interpreted() -> bool:
    """Triton's interpreter is on: kernels run as Python on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def missing() -> str | None:
    """None where Triton kernels run, else why not."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; it comes with torch's CUDA builds"
    if not torch.cuda.is_available() and not interpreted():
        return "no CUDA device"
    return None


def devices() -> frozenset[str]:
    """Where its tensors may be."""
    return frozenset({"cpu", "cuda"} if interpreted() else {"cuda"})
