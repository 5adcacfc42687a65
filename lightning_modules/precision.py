"""What precision a device can compute in, what autocast asks for, and float32 proper without either's rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch


@cache
def computes_bfloat16(kind: str) -> bool:
    """Whether devices of a kind ("cpu", "cuda") compute matrix products and convolutions in bfloat16.

    Where they do not (CPUs without AVX-512, GPUs before Ampere), torch takes the factors apart one by one: on an AVX2
    CPU a product takes 7 to 10 times as long as in float32, a convolution 40 times.
    """
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # oneDNN's own answer for this processor; a torch without oneDNN has no fast product either.
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return torch.backends.mkldnn.is_available() and supported is not None and bool(supported())


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The dtype autocast asks for on such a device, None where it is off."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """For what computes in the dtypes of its own arguments. A no-op where autocast is off, or not known ("meta")."""
    return nullcontext() if autocast_dtype(device_type) is None else torch.autocast(device_type, enabled=False)


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Matrix products and convolutions of float32 inside are computed in float32; on devices other than cuda a no-op.

    Training allows TensorFloat-32; a nearest code, or a feature that is compared with published ones, must not depend
    on it. Autocast is another switch, and stays as it is.
    """
    if device.type != "cuda":
        yield
        return
    # The setting of the whole process, by the same call that makes it: torch.backends.cuda.matmul.allow_tf32 and
    # fp32_precision each write a part of it, after which PyTorch refuses to read it.
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
