"""Products in float32 proper, where a GPU would otherwise round factors to TensorFloat-32 (10 bits of fraction)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
