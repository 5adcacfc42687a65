"""State space duality: chunked against the recurrence in float64, and against a selective scan with a scalar decay."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_modules.kernels import backends_used, reset_backends_used, selective_scan, ssd, ssd_state_update

FAST = ["cpp", "torch"]


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


def check(sizes: tuple[int, ...], backend: str, direction: str) -> None:
    """Outputs and gradients against the recurrence. sizes: as `problem` takes them."""
    tensors = problem(*sizes)
    exact = run(tensors, torch.float64, backend="reference", direction=direction)
    for value, target in zip(run(tensors, torch.float32, backend=backend, direction=direction), exact, strict=True):
        assert (value - target).abs().max() < 1e-5 * max(1.0, target.abs().max().item())
    if backend == "cpp":  # which has no float64
        return
    for value, target in zip(run(tensors, torch.float64, backend=backend, direction=direction), exact, strict=True):
        torch.testing.assert_close(value, target)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 2),
    length=st.sampled_from([1, 5, 63, 64, 65, 130]),
    heads=st.integers(1, 3),
    width=st.sampled_from([1, 4, 9, 33]),
    states=st.sampled_from([1, 3, 8, 20]),
    direction=st.sampled_from(["forward", "reverse"]),
    backend=st.sampled_from(FAST),
)
def test_chunks_match_the_recurrence(
    batch: int, length: int, heads: int, width: int, states: int, direction: str, backend: str
) -> None:
    check((batch, length, heads, width, states), backend, direction)


@pytest.mark.parametrize("layout", ["parts of a wider tensor", "batch of one, repeated", "batch inside of positions"])
@pytest.mark.parametrize("backend", FAST)
def test_inputs_may_lie_apart(backend: str, layout: str) -> None:
    tensors = problem(2, 70, 3, 8, 4)
    apart = dict(tensors)
    if layout == "parts of a wider tensor":
        wide = torch.cat([tensors["x"].flatten(2), tensors["B"], tensors["delta"], tensors["C"]], -1)
        x, apart["B"], apart["delta"], apart["C"] = wide.split([24, 4, 3, 4], -1)
        apart["x"] = x.unflatten(-1, (3, 8))
    elif layout == "batch of one, repeated":
        apart |= {
            name: tensors[name][:1].expand_as(tensors[name]) for name in ("x", "delta", "B", "C", "initial_state")
        }
    else:
        apart |= {n: tensors[n].transpose(0, 1).contiguous().transpose(0, 1) for n in ("x", "delta", "B", "C")}
        apart["initial_state"] = tensors["initial_state"].mT.contiguous().mT
    assert not apart["x"].is_contiguous()
    together = {name: t.contiguous() for name, t in apart.items()}
    y, state = ssd(**apart, return_final_state=True, backend=backend)
    expected = ssd(**together, return_final_state=True, backend=backend)
    assert torch.equal(y, expected[0]) and torch.equal(state, expected[1])
    for ours, theirs in zip(
        *(run(inputs, torch.float32, backend=backend) for inputs in (apart, together)), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    """Heads share the gradients of B and C, and are summed in an order of their own."""
    tensors, threads = problem(2, 130, 5, 8, 4), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(run(tensors, torch.float32, backend="cpp"))
    finally:
        torch.set_num_threads(threads)
    for results in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results, found[0], strict=True))


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


def test_a_step_is_recorded_and_refuses_gradients() -> None:
    tensors = problem(length=1)
    state = tensors.pop("initial_state")
    step = {name: t[:, 0] if name in ("x", "delta", "B", "C") else t for name, t in tensors.items()}
    reset_backends_used()
    ssd_state_update(state, **step)
    assert backends_used() == {"ssd": "torch"}
    with pytest.raises(ValueError, match="wants a gradient"):
        ssd_state_update(state.clone().requires_grad_(), **step)
    step["D"] = nn.Parameter(step["D"])
    with pytest.raises(ValueError, match="wants a gradient"):
        ssd_state_update(state, **step)
    with torch.no_grad():
        ssd_state_update(state, **step)


def test_bfloat16_and_wrong_shapes() -> None:
    tensors = problem()
    assert ssd(**{**tensors, "x": tensors["x"].bfloat16()}).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="none empty"):
        ssd(**{**tensors, "x": torch.zeros(2, 0, 3, 4)})
    with pytest.raises(ValueError, match="delta must have shape"):
        ssd(**{**tensors, "delta": torch.zeros(2, 9, 2)})
    with pytest.raises(ValueError, match=r"B must be \(batch=2, length=9, states\), not \(2, 9, 0\)"):
        ssd(**{**tensors, "B": torch.zeros(2, 9, 0)})
    with pytest.raises(ValueError, match="choose 'forward' or 'reverse'"):
        ssd(**tensors, direction="up")


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("length", [9, 64, 130])
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("output", [0, 1])
def test_either_output_alone_has_its_gradients(length: int, started: bool, output: int, fast: str) -> None:
    tensors = problem(1, length, 2, 3, 4)
    if not started:
        del tensors["initial_state"]
    grads = []
    for backend in (fast, "reference"):
        dtype = torch.float32 if backend == "cpp" else torch.float64
        leaves = {name: t.to(dtype).requires_grad_() for name, t in tensors.items()}
        result = ssd(**leaves, return_final_state=True, backend=backend)[output]
        weights = torch.linspace(-1, 1, result.numel(), dtype=dtype).view_as(result)
        grads.append(
            torch.autograd.grad(
                (result * weights).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        )
    for ours, exact in zip(*grads, strict=True):
        close = {"atol": 2e-5 * max(1.0, exact.abs().max().item()), "rtol": 0} if fast == "cpp" else {}
        torch.testing.assert_close(ours.double(), exact, **close)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["x", "delta", "B", "C"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("fast", FAST)
def test_what_is_not_finite_stays_out_of_positions_before(name: str, bad: float, direction: str, fast: str) -> None:
    """In the chunk of the bad position too, and out of other channels and heads."""
    tensors = problem(1, 70, 2, 3, 4)
    tensors[name].view(1, 70, -1)[0, 40, 0] = bad
    finite = [
        torch.cat([result.isfinite().flatten() for result in ssd(**tensors, return_final_state=True, **options)])
        for options in ({"backend": name, "direction": direction} for name in (fast, "reference"))
    ]
    assert not finite[1].all() and torch.equal(*finite)


@pytest.mark.parametrize("backend", FAST)
def test_double_backward_is_refused(backend: str) -> None:
    """Also where the first derivative depends on an input only through what the kernel kept."""
    tensors = {name: t.requires_grad_() for name, t in problem().items()}
    (grad,) = torch.autograd.grad(ssd(**tensors, backend=backend).sum(), tensors["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(grad.square().sum(), tensors["A"])
    exact = {name: t.detach().double().requires_grad_() for name, t in tensors.items()}
    (grad,) = torch.autograd.grad(ssd(**exact, backend="reference").sum(), exact["x"], create_graph=True)
    assert torch.autograd.grad(grad.square().sum(), exact["A"])[0].abs().sum() > 0
