"""The written-out attention equals PyTorch's, forward and backward; the adapter to flash-attn."""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from lightning_modules.kernels import attend, attention, dispatch


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


def test_causal_attention_is_that_of_a_lower_triangular_mask() -> None:
    """Whose rows are never empty, so that nothing need look for such rows."""
    q, k, v = torch.randn(3, 2, 3, 9, 4, generator=torch.Generator().manual_seed(0)).unbind()
    expected = attend(q, k, v, torch.ones(9, 9, dtype=torch.bool).tril(), backend="reference")
    with patch.object(torch.Tensor, "any", side_effect=AssertionError):
        causal = attend(q, k, v, causal=True, backend="reference")
    torch.testing.assert_close(causal, expected)
    torch.testing.assert_close(attend(q, k, v, causal=True, backend="torch"), expected)


def test_a_named_back_end_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 too, where the products are written out for training unless PyTorch's own are asked for."""
    q = torch.randn(1, 2, 9, 4, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    with patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as fused:
        attend(q, q, q)
        assert not fused.called
        attend(q, q, q, backend="torch")
        assert fused.call_count == 1
        with torch.no_grad():
            attend(q, q, q)
        assert fused.call_count == 2
        for longest, calls in ((9, 2), (8, 3)):
            monkeypatch.setattr(attention, "EXPLICIT_LENGTH", longest)
            attend(q, q, q)
            assert fused.call_count == calls
    with pytest.raises(ValueError, match="a mask or causal=True, not both"):
        attend(q, q, q, torch.ones(9, 9, dtype=torch.bool), causal=True)


def test_flash_attn_gets_its_layout_and_no_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that keeps to the package's interface: q, k, v (B, L, H, E) -> (B, L, H, E)."""
    package = ModuleType("flash_attn")

    def flash_attn_func(q, k, v, causal=False):
        assert q.shape in ((2, 9, 3, 4), (1, 2, 1, 256))
        parts = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(*parts, is_causal=causal).transpose(1, 2)

    package.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    backend = dataclasses.replace(
        dispatch.BACKENDS["flash_attn"], missing=lambda operation: None, devices=frozenset({"cpu"})
    )
    monkeypatch.setitem(dispatch.BACKENDS, "flash_attn", backend)
    q, k, v = torch.randn(3, 2, 3, 9, 4, generator=torch.Generator().manual_seed(0)).bfloat16().unbind()
    for causal in (False, True):
        found = attend(q, k, v, causal=causal)  # preferred where it fits
        torch.testing.assert_close(found, attend(q, k, v, causal=causal, backend="reference"), rtol=0.05, atol=0.05)
    assert "flash_attn" in dispatch.backends_used()["attention"]
    attend(*torch.zeros(3, 1, 1, 2, 256).bfloat16().unbind(), backend="flash_attn")
    with pytest.raises(ValueError, match="it takes no mask"):
        attend(q, k, v, torch.ones(9, dtype=torch.bool), backend="flash_attn")
    with pytest.raises(ValueError, match="up to 256 channels, not 264"):
        attend(*torch.zeros(3, 1, 1, 2, 264).bfloat16().unbind(), backend="flash_attn")


ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


# On a GPU PyTorch has several kernels, between which it chooses by dtype and head width.
@pytest.mark.parametrize(("device", "width"), [("cpu", 4), *(pytest.param("cuda", w, marks=ON_A_GPU) for w in (4, 64))])
@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_query_that_sees_no_key_gets_zeros_and_zero_gradients(
    backend: str, dtype: torch.dtype, device: str, width: int
) -> None:
    leaves = [torch.randn(1, 2, 3, width, device=device).to(dtype).requires_grad_() for _ in range(3)]
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]], device=device)
    y = attend(*leaves, mask, backend=backend)
    y.float().square().sum().backward()
    assert y.isfinite().all() and not y[:, :, 1].any() and y[:, :, [0, 2]].all()
    assert all(t.grad.isfinite().all() for t in leaves) and not leaves[0].grad[:, :, 1].any()


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_an_additive_mask_is_refused(backend: str) -> None:
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match="mask must be bool"):
        attend(q, q, q, torch.zeros(2, 2), backend=backend)
