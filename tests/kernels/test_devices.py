"""Tensors that lie on several devices are refused: a kernel would read one device's memory at another's address."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_modules.kernels import (
    depthwise_conv1d,
    depthwise_conv1d_update,
    residual,
    rms_norm,
    selective_scan,
    selective_state_update,
    ssd,
)
from tests.kernels.problems import small_scan

B, L, C, N = 2, 6, 5, 4
SHAPES: dict[Callable[..., Tensor], dict[str, tuple[int, ...]]] = {
    depthwise_conv1d: {"x": (B, L, C), "weight": (C, 3), "bias": (C,)},
    depthwise_conv1d_update: {"window": (B, 2, C), "x": (B, C), "weight": (C, 3), "bias": (C,)},
    residual: {"x": (B, L, C), "h": (B, L, C), "gate": (B, C)},
    rms_norm: {"x": (B, L, C), "gate": (B, L, C), "weight": (C,), "shift": (B, C), "scale": (B, C)},
    selective_scan: {name: tuple(tensor.shape) for name, tensor in small_scan(B, 2, L, C, N).items()},
    selective_state_update: {
        "state": (B, C, N),
        **dict.fromkeys(("u", "delta", "z"), (B, C)),
        "A": (C, N),
        **dict.fromkeys(("B", "C"), (B, N)),
        **dict.fromkeys(("D", "delta_bias"), (C,)),
    },
    ssd: {
        "x": (B, L, 3, C),
        "delta": (B, L, 3),
        **dict.fromkeys(("A", "D", "delta_bias"), (3,)),
        **dict.fromkeys(("B", "C"), (B, L, N)),
        "initial_state": (B, 3, C, N),
    },
}
OPTIONS = {rms_norm: {"eps": 1e-5}}


@pytest.mark.parametrize("operation", SHAPES, ids=lambda operation: operation.__name__)
def test_a_tensor_on_another_device_is_refused(operation: Callable[..., Tensor]) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in SHAPES[operation].items()}
    options = OPTIONS.get(operation, {})
    operation(**tensors, **options)
    for name in tensors:
        with pytest.raises(ValueError, match=r"is on (cpu|meta), other tensors are on (cpu|meta): move all to one"):
            operation(**tensors | {name: tensors[name].to("meta")}, **options)
