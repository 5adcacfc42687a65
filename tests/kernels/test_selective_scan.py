"""Every back end of the selective scan against the definition in float64."""

import weakref

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from lightning_modules.kernels import depthwise_conv1d, selective_scan
from lightning_modules.kernels.pytorch import selective_scan as pytorch
from tests.kernels.problems import Problem, relative_errors, run_scan, scan_problems, small_scan

FAST = ["cpp", "torch"]
TOLERANCE = 5e-6
quick = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(problem=scan_problems())
def test_values_and_every_gradient_match_the_definition(problem: Problem) -> None:
    tensors, options = problem
    exact = run_scan(tensors, options, "reference", torch.float64)
    for backend in FAST:
        errors = relative_errors(run_scan(tensors, options, backend), exact)
        assert max(errors.values()) < TOLERANCE, (backend, errors)


@settings(quick, max_examples=10)
@given(problem=scan_problems())
def test_torch_back_end_is_exact_in_float64(problem: Problem) -> None:
    tensors, options = problem
    exact = run_scan(tensors, options, "reference", torch.float64)
    errors = relative_errors(run_scan(tensors, options, "torch", torch.float64), exact)
    assert max(errors.values()) < 1e-12, errors


def test_definition_is_the_recurrence() -> None:
    """One channel, one state, by hand."""
    u, dt, a, b, c = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.25]), -1.0, 3.0, 2.0
    first = dt[0] * u[0] * b
    second = torch.exp(dt[1] * a) * first + dt[1] * u[1] * b
    y = selective_scan(
        u.view(1, 2, 1),
        dt.view(1, 2, 1),
        torch.full((1, 1), a),
        torch.full((1, 2, 1), b),
        torch.full((1, 2, 1), c),
        softplus=False,
        backend="reference",
    )
    torch.testing.assert_close(y.flatten(), torch.stack([first, second]) * c)


def test_gradients_of_the_definition_are_those_of_finite_differences() -> None:
    tensors = {name: t.double().requires_grad_() for name, t in small_scan(1, 2, 3, 2, 2).items()}

    def scan(*values: torch.Tensor) -> torch.Tensor:
        return selective_scan(**dict(zip(tensors, values, strict=True)), directions=("forward", "reverse"))

    assert torch.autograd.gradcheck(scan, list(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("merge", ["sum", "stack"])
def test_bfloat16_is_the_float32_scan_rounded_at_the_ends(backend: str, merge: str) -> None:
    tensors = small_scan(2, 2, 40, 33, 16)
    half = {name: t.bfloat16() if name in ("u", "delta", "B", "C", "z") else t for name, t in tensors.items()}
    exact = run_scan(half, {"merge": merge}, "reference", torch.float64)
    leaves = {name: t.requires_grad_() for name, t in half.items()}
    y, state = selective_scan(**leaves, merge=merge, return_final_state=True, backend=backend)
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    errors = relative_errors({"y": y, "final_state": state}, exact)
    assert errors["y"] < 4e-3 and errors["final_state"] < 1e-5
    y.float().sum().backward()
    assert all(t.grad is not None and t.grad.dtype == t.dtype for t in leaves.values())


@pytest.mark.parametrize("backend", FAST)
def test_any_strides_give_the_same_result(backend: str) -> None:
    tensors = small_scan(2, 2, 20, 17, 6)
    strided = {name: _scattered(t) for name, t in tensors.items()}
    plain, other = (run_scan(t, {}, backend) for t in (tensors, strided))
    for name in plain:
        torch.testing.assert_close(plain[name], other[name])


def _scattered(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with every stride doubled and the first two axes exchanged in memory."""
    wide = torch.zeros([2 * n for n in tensor.transpose(0, 1).shape])
    view = wide[tuple(slice(None, None, 2) for _ in wide.shape)].transpose(0, 1)
    return view.copy_(tensor)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_reverse_is_the_flipped_forward_scan(backend: str) -> None:
    tensors = small_scan(count=1)
    flipped = {name: t.flip(-2) if name in ("u", "delta", "B", "C", "z") else t for name, t in tensors.items()}
    reverse = selective_scan(**tensors, directions=("reverse",), backend=backend)
    torch.testing.assert_close(reverse, selective_scan(**flipped, backend=backend).flip(1))


@pytest.mark.parametrize("backend", FAST)
def test_final_state_continues_the_scan(backend: str) -> None:
    tensors = small_scan(1, 1, 50, 20, 4)
    start = tensors.pop("initial_state")
    cut = {name: t for name, t in tensors.items() if name in ("u", "delta", "B", "C", "z")}
    rest = {name: t for name, t in tensors.items() if name not in cut}
    head, state = selective_scan(
        **{n: t[..., :21, :] for n, t in cut.items()},
        **rest,
        initial_state=start,
        return_final_state=True,
        backend=backend,
    )
    tail = selective_scan(**{n: t[..., 21:, :] for n, t in cut.items()}, **rest, initial_state=state, backend=backend)
    whole = selective_scan(**tensors, initial_state=start, backend=backend)
    torch.testing.assert_close(torch.cat([head, tail], 1), whole)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("name", ["u", "delta", "B", "C", "z", "A", "D", "delta_bias", "initial_state"])
def test_nan_reaches_the_output_and_the_gradients(backend: str, name: str) -> None:
    tensors = small_scan(1, 1, 40, 20, 5)
    tensors[name].view(-1)[0] = torch.nan
    results = run_scan(tensors, {}, backend)
    assert results["y"].isnan().any()
    assert results["u"].isnan().any() or name in ("u", "initial_state")
    exact = run_scan(tensors, {}, "reference", torch.float64)
    assert torch.equal(results["y"].isnan(), exact["y"].isnan())


@pytest.mark.parametrize("backend", FAST)
def test_growing_states_agree_too(backend: str) -> None:
    tensors = small_scan(1, 2, 33, 17, 4)
    tensors["A"] = -tensors["A"]
    errors = relative_errors(run_scan(tensors, {}, backend), run_scan(tensors, {}, "reference", torch.float64))
    assert max(errors.values()) < 2e-5, errors


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("most", [1.0, 87.0, 120.0])
def test_decays_are_exact_from_none_to_the_least_and_largest_numbers(sign: float, most: float) -> None:
    """One position that only decays: h = exp(dt A) over all exponents that a block of channels can hold together."""
    dt = torch.linspace(0, most, 64).view(1, 1, 64)
    ones = torch.ones(1, 1, 1)
    decayed = selective_scan(
        torch.zeros_like(dt),
        dt,
        torch.full((64, 1), sign),
        ones,
        ones,
        softplus=False,
        initial_state=torch.ones(1, 64, 1),
        backend="cpp",
    )
    exponent = sign * dt.double()
    within = exponent.abs() < 87
    error = (decayed.double() / exponent.exp() - 1)[within].abs()
    assert (error < 3e-7 + 1.5e-7 * exponent[within].abs()).all()  # the exponent itself is rounded
    # Beyond, some processors' instructions end at infinity, others at the largest power of two.
    assert (decayed[~within] > 1e37 if sign > 0 else decayed[~within] < 1e-37).all()


def test_the_definition_takes_half_precision() -> None:
    """As under autocast; computed in float32."""
    tensors = {name: tensor.bfloat16() for name, tensor in small_scan().items()}
    found = selective_scan(**tensors, directions=("forward", "reverse"), backend="reference")
    exact = selective_scan(**{n: t.double() for n, t in tensors.items()}, directions=("forward", "reverse"))
    assert found.dtype == torch.bfloat16 and (found - exact).abs().max() / exact.abs().max() < 4e-3


def test_float64_stays_float64_under_autocast() -> None:
    tensors = {name: tensor.double() for name, tensor in small_scan().items()}
    with torch.autocast("cpu", torch.bfloat16):
        found = selective_scan(**tensors, directions=("forward", "reverse"))
    assert torch.equal(found, selective_scan(**tensors, directions=("forward", "reverse")))


def test_the_torch_back_end_lets_the_states_of_a_chunk_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all positions are what chunks are there to avoid."""
    made: list[weakref.ref[Tensor]] = []
    real = pytorch._states

    def watched(decay: Tensor, x: Tensor, state: Tensor) -> Tensor:
        assert sum(states() is not None for states in made) <= 1, "that of the chunk before"
        states = real(decay, x, state)
        made.append(weakref.ref(states))
        return states

    monkeypatch.setattr(pytorch, "_states", watched)
    with torch.no_grad():
        selective_scan(**small_scan(2, 2, 600, 5, 4), directions=("forward", "reverse"), backend="torch")
    assert len(made) > 3


def test_long_memory_stays_unbiased() -> None:
    """Decays within 1e-4 of one over thousands of positions: the exponential must be exact near zero."""
    length = 4096
    tensors = small_scan(1, 1, length, 16, 4)
    tensors = {name: tensors[name] for name in ("u", "delta", "A", "B", "C")}
    tensors["delta"] = torch.full_like(tensors["delta"], 1e-4)
    tensors["u"] = tensors["u"].abs()
    tensors["B"], tensors["C"] = torch.ones_like(tensors["B"]), torch.ones_like(tensors["C"])
    exact = selective_scan(**{n: t.double() for n, t in tensors.items()}, softplus=False, backend="torch")
    error = {
        backend: (selective_scan(**tensors, softplus=False, backend=backend) - exact).abs().max().item()
        for backend in FAST
    }
    assert error["cpp"] < 4 * error["torch"]


def test_gradients_do_not_depend_on_the_number_of_threads() -> None:
    tensors = small_scan(3, 2, 70, 200, 16)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 3):
            torch.set_num_threads(count)
            runs.append(run_scan(tensors, {"directions": ("forward", "reverse")}, "cpp"))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(2, 9, 4)}, "u must have shape"),
        ({"delta": torch.zeros(0, 2, 9, 5)}, "none empty"),
        ({"delta": torch.zeros(2, 2, 0, 5)}, "none empty"),
        ({"A": torch.zeros(2, 5)}, "A must be"),
        ({"B": torch.zeros(2, 2, 9, 3)}, "B must have shape"),
        ({"directions": ("up",)}, "choose from 'forward' and 'reverse'"),
        ({"directions": ("forward",) * 3}, "names 3 directions"),
        ({"merge": "mean"}, "choose 'sum' or 'stack'"),
        ({"order": torch.zeros(2, 8, dtype=torch.int32)}, "order must be"),
        ({"order": torch.zeros(2, 9, dtype=torch.int32), "directions": ("reverse",)}, "not both"),
        ({"backend": "fortran"}, "is no back end"),
        ({"order": torch.arange(9.0).repeat(2, 1)}, "order must be int32 or int64, not torch.float32"),
        ({"order": torch.zeros(2, 9, dtype=torch.bool)}, "order must be int32 or int64, not torch.bool"),
        ({"order": torch.zeros(2, 9, dtype=torch.int32, device="meta")}, "order is on meta, delta on cpu"),
    ],
)
def test_wrong_requests_are_refused_in_one_sentence(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**small_scan(), **change})


@pytest.mark.parametrize("backend", [*FAST, "reference"])
@pytest.mark.parametrize("bad", [0, -1, 9, 2**32 + 4])
def test_an_order_that_is_no_permutation_is_refused(backend: str, bad: int) -> None:
    order = torch.arange(9, dtype=torch.int32 if bad < 2**31 else torch.int64).repeat(2, 1)
    order[1, 4] = bad
    with pytest.raises(ValueError, match="exactly once"):
        selective_scan(**small_scan(), order=order, backend=backend)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_an_order_may_be_of_either_width(backend: str) -> None:
    order = torch.tensor([[2, 0, 1]])
    wide, narrow = (run_scan(small_scan(1, 1, 3, 2, 2), {"order": o}, backend) for o in (order, order.int()))
    assert all(torch.equal(wide[name], narrow[name]) for name in wide)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_integers_are_refused(backend: str) -> None:
    tensors = {name: small_scan()[name] for name in ("u", "delta", "A", "B", "C")}
    tensors |= {name: tensors[name].long() for name in ("u", "delta", "B", "C")}
    with pytest.raises(ValueError, match="must be floating-point numbers, not int64"):
        selective_scan(**tensors, backend=backend)
    with pytest.raises(ValueError, match="must be floating-point numbers, not int64"):
        depthwise_conv1d(tensors["u"], torch.zeros(5, 3), backend=backend)


@pytest.mark.parametrize("backend", FAST)
def test_double_backward_is_refused(backend: str) -> None:
    tensors = {name: t.requires_grad_() for name, t in small_scan().items()}
    y = selective_scan(**tensors, backend=backend)
    (grad,) = torch.autograd.grad(y.sum(), tensors["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


def test_an_order_is_looked_through_once_for_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every look waits for the device, and layers scan in the same orders step after step."""
    looked: list[torch.Tensor] = []
    equal = torch.equal
    monkeypatch.setattr(torch, "equal", lambda a, b: looked.append(a) or equal(a, b))
    order = torch.tensor([[2, 0, 1]], dtype=torch.int32)
    tensors = small_scan(1, 1, 3, 2, 2)
    for _ in range(3):
        run_scan(tensors, {"order": order}, "torch")
    assert len(looked) == 1
    order[0, 0] = 1
    with pytest.raises(ValueError, match="exactly once"):
        run_scan(tensors, {"order": order}, "torch")
    with torch.inference_mode():  # such a tensor does not count what is written to it
        other = torch.tensor([[2, 0, 1]], dtype=torch.int32)
    for _ in range(2):
        with torch.no_grad():
            selective_scan(**tensors, order=other, backend="torch")
    assert len(looked) == 4
