"""Random selective scans and convolutions, and how far a back end's results lie from the float64 definition."""

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.kernels import selective_scan

Problem = tuple[dict[str, Tensor], dict[str, Any]]


@st.composite
def scan_problems(draw: st.DrawFn) -> Problem:
    """(tensors, options) of selective_scan: sizes around the vector width and chunk length, all optional inputs."""
    batch, count = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    length = draw(st.sampled_from([1, 2, 7, 31, 32, 33, 65]))
    channels = draw(st.sampled_from([1, 3, 16, 17, 40]))
    states = draw(st.sampled_from([1, 2, 3, 4, 5, 8, 16, 24]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    scale = draw(st.sampled_from([1.0, 30.0]))  # large time steps saturate softplus and empty the state
    tensors = {
        "u": normal(batch, length, channels) if draw(st.booleans()) else normal(batch, count, length, channels),
        "delta": normal(batch, count, length, channels) * scale,
        "A": draw(st.sampled_from([-2.0, 0.0])) * torch.rand(count, channels, states, generator=generator),
        "B": normal(batch, count, length, states),
        "C": normal(batch, count, length, states),
    }
    optional = {
        "D": normal(count, channels),
        "z": normal(batch, length, channels),
        "delta_bias": normal(count, channels),
        "initial_state": normal(batch, count, channels, states),
    }
    tensors |= {name: tensor for name, tensor in optional.items() if draw(st.booleans())}
    options: dict[str, Any] = {"merge": draw(st.sampled_from(["sum", "stack"]))}
    if draw(st.booleans()):
        options["order"] = torch.stack([torch.randperm(length, generator=generator) for _ in range(count)]).int()
    else:
        options["directions"] = [draw(st.sampled_from(["forward", "reverse"])) for _ in range(count)]
    return tensors, options


def small_scan(
    batch: int = 2, count: int = 2, length: int = 9, channels: int = 5, states: int = 4
) -> dict[str, Tensor]:
    """Every input of selective_scan, float32."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "u": normal(batch, length, channels),
        "delta": normal(batch, count, length, channels),
        "A": -torch.rand(count, channels, states, generator=generator),
        "B": normal(batch, count, length, states),
        "C": normal(batch, count, length, states),
        "D": normal(count, channels),
        "z": normal(batch, length, channels),
        "delta_bias": normal(count, channels),
        "initial_state": normal(batch, count, channels, states),
    }


def run_scan(
    tensors: dict[str, Tensor], options: dict[str, Any], backend: str, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """y, final state and the gradient of every input, for gradients in that do not depend on the back end."""
    leaves = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in tensors.items()}
    y, state = selective_scan(**leaves, **options, return_final_state=True, backend=backend)
    generator = torch.Generator().manual_seed(1)
    received = [torch.randn(t.shape, generator=generator).to(t.dtype) for t in (y, state)]
    grads = torch.autograd.grad([y, state], list(leaves.values()), received)
    return {"y": y, "final_state": state, **dict(zip(leaves, grads, strict=True))}


def relative_errors(results: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Largest deviation over the largest exact value, per result; shapes must agree.

    Infinite where one of the two has a NaN: a NaN itself need not show in the largest of several errors.
    """
    errors = {}
    for name, value in results.items():
        assert value.shape == exact[name].shape, name
        size = exact[name].abs().max().item()
        error = (value.double() - exact[name]).abs().max().item() / max(size, 1e-6)
        errors[name] = math.inf if math.isnan(error) else error
    return errors
