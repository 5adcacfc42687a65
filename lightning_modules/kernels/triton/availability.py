"""Whether Triton kernels can run here; imports neither triton nor a driver before it is asked."""

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch

MAX_TAPS = 9
"""Of a convolution: the backward unrolls taps x taps reads."""
FUSED = {"enable_fp_fusion": True}
"""Of every launch: a product and a sum are one instruction, as Triton itself would choose only up to 3.9, with a
warning."""


def interpreted() -> bool:
    """Triton's interpreter is on: kernels run as Python on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def missing() -> str | None:
    """None where Triton kernels run, else why not."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; it comes with torch's CUDA builds"
    if interpreted():
        return None
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:  # Triton builds its driver with the system's C compiler and Python's headers when it is first asked
        from triton.runtime import driver

        driver.active.get_current_device()
    except Exception as error:  # whatever compiler and loader come upon
        reason = f"triton cannot compile here ({' '.join(f'{type(error).__name__}: {error}'.split())[:200]})"
        warnings.warn(f"The Triton kernels are off, a slower back end stands in: {reason}", stacklevel=2)
        return reason
    return None


def on_its_device(launch: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the GPU of the first argument, a tensor or a tuple that begins with one, the current one meanwhile: Triton
    launches there, wherever the tensors are."""

    @functools.wraps(launch)
    def there(first: Any, *others: Any, **options: Any) -> Any:
        with torch.cuda.device_of(first[0] if isinstance(first, tuple) else first):
            return launch(first, *others, **options)

    return there


def devices() -> frozenset[str]:
    """Where its tensors may be."""
    return frozenset({"cpu", "cuda"} if interpreted() else {"cuda"})
