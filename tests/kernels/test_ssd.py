"""State space duality: chunked against the recurrence in float64, and against a selective scan with a scalar decay."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.kernels import selective_scan, ssd, ssd_state_update


def problem(batch: int = 2, length: int = 9, heads: int = 3, width: int = 4, states: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "x": normal(batch, length, heads, width),
        "delta": normal(batch, length, heads),
        "A": -torch.rand(heads, generator=generator) * 16,
        "B": normal(batch, length, states),
        "C": normal(batch, length, states),
        "D": normal(heads),
        "delta_bias": normal(heads),
        "initial_state": normal(batch, heads, width, states),
    }


def run(tensors: dict[str, Tensor], dtype: torch.dtype, **options: object) -> list[Tensor]:
    leaves = {name: t.to(dtype).requires_grad_() for name, t in tensors.items()}
    y, state = ssd(**leaves, return_final_state=True, **options)
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)).sum() + state.sum()
    return [y, state, *torch.autograd.grad(loss, list(leaves.values()))]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 2),
    length=st.sampled_from([1, 5, 63, 64, 65, 130]),
    heads=st.integers(1, 3),
    states=st.sampled_from([1, 8]),
    direction=st.sampled_from(["forward", "reverse"]),
)
def test_chunks_match_the_recurrence(batch: int, length: int, heads: int, states: int, direction: str) -> None:
    tensors = problem(batch, length, heads, 4, states)
    exact = run(tensors, torch.float64, backend="reference", direction=direction)
    for value, target in zip(run(tensors, torch.float32, backend="torch", direction=direction), exact, strict=True):
        assert (value - target).abs().max() < 1e-5 * max(1.0, target.abs().max().item())
    for value, target in zip(run(tensors, torch.float64, backend="torch", direction=direction), exact, strict=True):
        torch.testing.assert_close(value, target)


def test_it_is_a_selective_scan_with_one_decay_per_head() -> None:
    tensors = problem()
    batch, length, heads, width = tensors["x"].shape
    repeat = {n: tensors[n].repeat_interleave(width, -1) for n in ("delta", "D", "delta_bias", "A")}
    y = selective_scan(
        tensors["x"].flatten(2),
        repeat["delta"],
        repeat["A"][:, None].expand(-1, 5),
        tensors["B"],
        tensors["C"],
        repeat["D"],
        delta_bias=repeat["delta_bias"],
        initial_state=tensors["initial_state"].flatten(1, 2),
    )
    torch.testing.assert_close(ssd(**tensors), y.view(batch, length, heads, width), atol=1e-5, rtol=1e-4)


def test_steps_make_up_the_sequence() -> None:
    tensors = problem()
    y, final = ssd(**tensors, return_final_state=True)
    state = tensors.pop("initial_state")
    positions = {n: tensors.pop(n) for n in ("x", "delta", "B", "C")}
    steps = [ssd_state_update(state, **{n: t[:, i] for n, t in positions.items()}, **tensors) for i in range(9)]
    torch.testing.assert_close(torch.stack(steps, 1), y, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state, final, atol=1e-5, rtol=1e-4)


def test_bfloat16_and_wrong_shapes() -> None:
    tensors = problem()
    assert ssd(**{**tensors, "x": tensors["x"].bfloat16()}).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="none empty"):
        ssd(**{**tensors, "x": torch.zeros(2, 0, 3, 4)})
    with pytest.raises(ValueError, match="delta must have shape"):
        ssd(**{**tensors, "delta": torch.zeros(2, 9, 2)})
    with pytest.raises(ValueError, match="choose 'forward' or 'reverse'"):
        ssd(**tensors, direction="up")
