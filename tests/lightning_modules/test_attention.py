"""The written-out attention equals PyTorch's, forward and backward, with and without a mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lightning_modules.layers.attention import attend


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_equal_to_pytorch(dtype: torch.dtype, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 9, 4, generator=generator) for _ in range(3)]
    mask = torch.rand(2, 1, 1, 9, generator=generator) < 0.7 if masked else None
    ours = [x.to(dtype).clone().requires_grad_() for x in inputs]
    theirs = [x.double().requires_grad_() for x in inputs]
    y = attend(*ours, mask)
    expected = F.scaled_dot_product_attention(*theirs, attn_mask=mask)
    y.float().square().sum().backward()
    expected.square().sum().backward()
    tolerance = {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(y.double(), expected, **tolerance)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, **tolerance)
