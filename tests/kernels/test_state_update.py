"""Single-step updates walk the same path as the whole-sequence operators."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.kernels import (
    depthwise_conv1d,
    depthwise_conv1d_update,
    selective_scan,
    selective_state_update,
)
from tests.kernels.problems import small_scan

BACKENDS = ["cpp", "torch"]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    channels=st.sampled_from([1, 5, 16, 33]),
    states=st.sampled_from([1, 4, 16, 21]),
    dropped=st.sets(st.sampled_from(["D", "z", "delta_bias"])),
    backend=st.sampled_from(BACKENDS),
)
def test_steps_make_up_the_scan(batch: int, channels: int, states: int, dropped: set[str], backend: str) -> None:
    tensors = {n: t for n, t in small_scan(batch, 1, 6, channels, states).items() if n not in dropped}
    state = tensors.pop("initial_state")[:, 0].contiguous()
    exact, final = selective_scan(
        **{n: t.double() for n, t in tensors.items()},
        initial_state=state.double().unsqueeze(1),
        return_final_state=True,
        backend="reference",
    )
    steps = []
    for position in range(6):
        at = {n: t.squeeze(1)[:, position] if n == "delta" or n in "BC" else t for n, t in tensors.items()}
        at |= {n: tensors[n][:, position] for n in ("u", "z") if n in tensors}
        at |= {n: tensors[n][0] for n in ("A", "D", "delta_bias") if n in tensors}
        steps.append(selective_state_update(state, **at, backend=backend))
    torch.testing.assert_close(torch.stack(steps, 1), exact.float(), atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(state, final[:, 0].float(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_steps_make_up_the_causal_convolution(backend: str, dtype: torch.dtype, taps: int) -> None:
    x, weight, bias = torch.randn(2, 7, 19).to(dtype), torch.randn(19, taps), torch.randn(19)
    window = torch.zeros(2, taps - 1, 19, dtype=dtype)
    steps = [depthwise_conv1d_update(window, x[:, i], weight, bias, backend=backend) for i in range(7)]
    whole = depthwise_conv1d(x, weight, bias, padding="causal")
    torch.testing.assert_close(torch.stack(steps, 1), whole, atol=1e-5 if dtype == torch.float32 else 4e-2, rtol=1e-2)
    assert torch.equal(window, x[:, 8 - taps :])


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_inputs_keep_a_float32_state(backend: str) -> None:
    state = torch.zeros(2, 19, 16)
    half = {"u": (2, 19), "delta": (2, 19), "B": (2, 16), "C": (2, 16)}
    inputs = {name: torch.randn(shape).bfloat16() for name, shape in half.items()}
    y = selective_state_update(state, **inputs, A=-torch.rand(19, 16), backend=backend)
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32 and state.abs().sum() > 0


def test_unfit_requests_are_refused() -> None:
    state, u, A, B = torch.zeros(2, 5, 4), torch.zeros(2, 5), torch.zeros(5, 4), torch.zeros(2, 4)
    with pytest.raises(ValueError, match="wants a gradient"):
        selective_state_update(state, u.clone().requires_grad_(), u, A, B, B)
    with pytest.raises(ValueError, match="state wants a gradient"):
        selective_state_update(state.clone().requires_grad_(), u, u, A, B, B)
    with pytest.raises(ValueError, match="u must not be empty"):
        selective_state_update(state[:0], u[:0], u[:0], A, B[:0], B[:0])
    with pytest.raises(ValueError, match="window wants a gradient"):
        depthwise_conv1d_update(torch.zeros(2, 3, 5).requires_grad_(), u, torch.zeros(5, 4))
    with pytest.raises(ValueError, match="x must not be empty"):
        depthwise_conv1d_update(torch.zeros(0, 3, 5), u[:0], torch.zeros(5, 4))
    with pytest.raises(ValueError, match="u must have shape"):
        selective_state_update(state, u[:1], u, A, B, B)
    with pytest.raises(ValueError, match="state must be contiguous"):
        selective_state_update(torch.zeros(4, 5, 2).transpose(0, 2), u, u, A, B, B)
    with pytest.raises(ValueError, match="window must be contiguous"):
        depthwise_conv1d_update(torch.zeros(2, 3, 5, dtype=torch.float64), u, torch.zeros(5, 4))
