"""Every back end of the depthwise convolution against the definition in float64, and that against torch's conv1d."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.kernels import depthwise_conv1d

FAST = ["cpp", "torch"]


def run_conv(tensors: list[Tensor], backend: str, dtype: torch.dtype, **options: object) -> list[Tensor]:
    leaves = [t.detach().to(dtype).requires_grad_() for t in tensors]
    y = depthwise_conv1d(*leaves, **options, backend=backend)
    received = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad(y, leaves, received)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    length=st.sampled_from([1, 2, 5, 32, 33, 70]),
    channels=st.sampled_from([1, 15, 16, 33, 150]),
    taps=st.integers(1, 9),
    padding=st.sampled_from(["same", "causal", "anticausal"]),
    activation=st.sampled_from(["silu", None]),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_values_and_gradients_match_the_definition(
    batch: int, length: int, channels: int, taps: int, padding: str, activation: str | None, bias: bool, seed: int
) -> None:
    taps = taps | 1 if padding == "same" else taps
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, length, channels), (channels, taps), (channels,)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes[: 3 if bias else 2]]
    options = {"padding": padding, "activation": activation}
    exact = run_conv(tensors, "reference", torch.float64, **options)
    for backend in FAST:
        for value, target in zip(run_conv(tensors, backend, torch.float32, **options), exact, strict=True):
            size = max(target.abs().max().item(), 1e-6)
            assert (value.double() - target).abs().max().item() / size < 3e-6, backend


@pytest.mark.parametrize(("padding", "left", "right"), [("same", 1, 1), ("causal", 2, 0), ("anticausal", 0, 2)])
def test_the_definition_is_a_padded_conv1d(padding: str, left: int, right: int) -> None:
    x, weight, bias = torch.randn(2, 9, 5), torch.randn(5, 3), torch.randn(5)
    ours = depthwise_conv1d(x, weight, bias, padding=padding, backend="reference")
    theirs = F.conv1d(F.pad(x.mT, (left, right)), weight[:, None], bias, groups=5)
    torch.testing.assert_close(ours, F.silu(theirs).mT)


@pytest.mark.parametrize("backend", FAST)
def test_strides_and_nan(backend: str) -> None:
    x, weight = torch.randn(20, 2, 17), torch.randn(17, 4)
    options = {"padding": "causal", "backend": backend}
    swapped = x.transpose(0, 1)
    assert torch.equal(
        depthwise_conv1d(swapped, weight, **options), depthwise_conv1d(swapped.clone(), weight, **options)
    )
    x[6, 0, 3] = torch.nan
    hit = depthwise_conv1d(swapped, weight, **options).isnan().nonzero()
    assert hit.tolist() == [[0, position, 3] for position in range(6, 10)]


@pytest.mark.parametrize("backend", FAST)
def test_bfloat16_in_bfloat16_out(backend: str) -> None:
    tensors = [torch.randn(2, 40, 33).bfloat16(), torch.randn(33, 3), torch.randn(33)]
    leaves = [t.clone().requires_grad_() for t in tensors]
    y = depthwise_conv1d(*leaves, backend=backend)
    exact = depthwise_conv1d(*(t.double() for t in tensors), backend="reference")
    assert y.dtype == torch.bfloat16
    assert (y.double() - exact).abs().max() / exact.abs().max() < 4e-3
    y.float().sum().backward()
    assert [t.grad.dtype for t in leaves] == [t.dtype for t in tensors]


def test_more_taps_than_the_cpp_kernel_has_run_elsewhere() -> None:
    x, weight = torch.randn(1, 30, 4), torch.randn(4, 11)
    exact = depthwise_conv1d(x.double(), weight.double(), backend="reference")
    torch.testing.assert_close(depthwise_conv1d(x, weight).double(), exact, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="up to 9 taps"):
        depthwise_conv1d(x, weight, backend="cpp")


@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        ((2, 9, 5), (5, 4), {}, "an even kernel would be lopsided"),
        ((2, 9, 5), (5, 3), {"padding": "full"}, "choose 'same', 'causal' or 'anticausal'"),
        ((2, 9, 5), (4, 3), {}, "weight must be"),
        ((0, 9, 5), (5, 3), {}, "none of them empty"),
        ((2, 0, 5), (5, 3), {}, "none of them empty"),
        ((2, 9, 5), (5, 3), {"activation": "gelu"}, "choose 'silu' or None"),
    ],
)
def test_wrong_requests_are_refused_in_one_sentence(x: tuple, weight: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        depthwise_conv1d(torch.zeros(x), torch.zeros(weight), **options)
