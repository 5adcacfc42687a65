"""Norms, residual branches and SwiGLU's activation: the C++ against PyTorch's own functions in float64."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.kernels import backends_used, reset_backends_used, residual, rms_norm, swiglu
from lightning_modules.kernels.cpp import rows as cpp_rows

TOLERANCE = 2e-6
EPS = 1e-3
Tensors = dict[str, Tensor | None]


def norm_problem(
    batch: int, length: int, channels: int, *, gated: bool = True, modulated: bool = True, weighted: bool = True
) -> Tensors:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    wide = normal(batch, length, 2 * channels + 1)
    return {
        "x": wide[..., :channels],
        "gate": wide[..., channels : 2 * channels] if gated else None,
        "weight": normal(channels) if weighted else None,
        "shift": normal(batch, channels) if modulated else None,
        "scale": normal(batch, channels) if modulated else None,
    }


def residual_problem(batch: int, length: int, channels: int, *, gated: bool = True, added: bool = True) -> Tensors:
    tensors = norm_problem(batch, length, channels)
    x, h = tensors["x"], tensors["gate"]
    return {"x": x if added else None, "h": h, "gate": tensors["shift"] if gated else None}


def results(call: Callable[..., Tensor], tensors: Tensors, dtype: torch.dtype, **options: object) -> list[Tensor]:
    """Output, and gradients of all that is there."""
    leaves = {name: None if t is None else t.detach().to(dtype).requires_grad_() for name, t in tensors.items()}
    y = call(**leaves, **options)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return [y, *torch.autograd.grad((y * weights).sum(), [t for t in leaves.values() if t is not None])]


def check(call: Callable[..., Tensor], tensors: Tensors, **options: object) -> None:
    exact = results(call, tensors, torch.float64, backend="reference", **options)
    for value, target in zip(results(call, tensors, torch.float32, backend="cpp", **options), exact, strict=True):
        assert value.shape == target.shape
        assert (value - target).abs().max() < TOLERANCE * max(1.0, target.abs().max().item())


SIZES = {
    "batch": st.integers(1, 3),
    "length": st.sampled_from([1, 5, 32, 33, 70]),
    "channels": st.sampled_from([2, 8, 17, 192]),
}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(**SIZES, gated=st.booleans(), modulated=st.booleans(), weighted=st.booleans())
def test_norms(batch: int, length: int, channels: int, gated: bool, modulated: bool, weighted: bool) -> None:
    tensors = norm_problem(batch, length, channels, gated=gated, modulated=modulated, weighted=weighted)
    check(rms_norm, tensors, eps=EPS)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(**SIZES, gated=st.booleans(), added=st.booleans())
def test_residual_branches(batch: int, length: int, channels: int, gated: bool, added: bool) -> None:
    check(residual, residual_problem(batch, length, channels, gated=gated, added=added))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(**SIZES)
def test_swiglu(batch: int, length: int, channels: int) -> None:
    check(swiglu, {"gate_up": norm_problem(batch, length, channels)["x"][..., : channels // 2 * 2]})


def test_one_position_is_a_sequence_of_one() -> None:
    tensors = norm_problem(3, 1, 17)
    one = {name: t[:, 0] if name in ("x", "gate") else t for name, t in tensors.items()}
    for backend in ("cpp", "torch"):
        y = rms_norm(**one, eps=EPS, backend=backend)
        assert torch.equal(y, rms_norm(**tensors, eps=EPS, backend=backend)[:, 0])


# --- dropout ---


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    """Bounds: five standard deviations of a binomial count."""
    torch.manual_seed(0)
    batch, length, channels = 4, 128, 200
    kept = residual(None, torch.ones(batch, length, channels), dropout=share, backend="cpp") * (1 - share)
    torch.testing.assert_close(kept, (kept > 0.5).float())
    deviation = (share * (1 - share)) ** 0.5
    assert abs(kept.mean().item() - (1 - share)) < 5 * deviation / kept.numel() ** 0.5
    # By place and between neighbours: no channel, no position is preferred, and no element tells of the next ones.
    for axes, count in (((0, 1), batch * length), ((0, 2), batch * channels)):
        assert (kept.mean(axes) - (1 - share)).abs().max() < 5 * deviation / count**0.5
    centred = kept - (1 - share)
    for shift in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (0, 0, 8)):
        product = (centred * centred.roll(shift, (0, 1, 2))).mean().item()
        assert abs(product) < 5 * deviation**2 / kept.numel() ** 0.5


def test_elements_of_a_row_tell_nothing_of_each_other() -> None:
    """Of channels, over which a counter runs, that differ in the same low bits. Bounds: six standard deviations."""
    torch.manual_seed(0)
    signs = residual(None, torch.ones(8, 2048, 256), dropout=0.5, backend="cpp").sub(1).flatten(0, 1)
    for difference in range(1, 21):
        pairs = (signs * signs[:, torch.arange(256) ^ difference]).mean().item()  # each counted twice
        assert abs(pairs) < 6 * (2 / signs.numel()) ** 0.5, difference


def test_rows_have_keys_of_more_than_32_bits() -> None:
    """Among so many rows some 18 pairs would share 32 bits, and their masks be the same."""
    torch.manual_seed(0)
    kept = residual(None, torch.ones(12, 2**15, 48), dropout=0.5, backend="cpp") > 0
    numbers = torch.stack([mask.double() @ 2 ** torch.arange(48).double() for mask in kept])
    assert len(numbers.unique()) == numbers.numel()


def test_every_call_draws_another_mask_and_a_seed_gives_it_again() -> None:
    def draw() -> Tensor:
        return residual(None, torch.ones(2, 40, 33), dropout=0.5, backend="cpp")

    torch.manual_seed(5)
    first, second = draw(), draw()
    torch.manual_seed(5)
    assert torch.equal(draw(), first) and torch.equal(draw(), second)
    agree = (first == second).float().mean().item()
    assert abs(agree - 0.5) < 0.05
    masks = {residual(None, torch.ones(1, 1, 64), dropout=0.5, backend="cpp").numpy().tobytes() for _ in range(64)}
    assert len(masks) == 64


def test_every_bit_of_the_seed_counts() -> None:
    h = torch.ones(1, 1, 64)
    seeds = [0, *(2**bit for bit in range(63))]
    masks = {cpp_rows.residual(None, h, None, seed, dropout=0.5).numpy().tobytes() for seed in seeds}
    assert len(masks) == len(seeds)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("added", [True, False])
def test_dropout_has_the_same_mask_in_the_backward(gated: bool, added: bool) -> None:
    tensors = residual_problem(2, 40, 33, gated=gated, added=added)
    torch.manual_seed(5)
    kept = residual(None, torch.ones(2, 40, 33), dropout=0.4, backend="cpp")  # 0, or 1 / 0.6
    torch.manual_seed(5)
    found = results(residual, tensors, torch.float32, dropout=0.4, backend="cpp")

    def masked(x: Tensor | None, h: Tensor, gate: Tensor | None) -> Tensor:
        return residual(x, h * kept, gate=gate, backend="reference")

    for value, target in zip(found, results(masked, tensors, torch.float64), strict=True):
        assert (value - target).abs().max() < TOLERANCE * max(1.0, target.abs().max().item())


@pytest.mark.parametrize("backend", ["cpp", "torch"])
def test_all_and_nothing_dropped(backend: str) -> None:
    x, h = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    assert torch.equal(residual(x, h, dropout=1.0, backend=backend), x)
    reset_backends_used()
    assert torch.equal(residual(x, h, dropout=0.0, backend=backend), x + h)
    assert backends_used() == {"residual": backend}


# --- all of them ---

CALLS: dict[str, tuple[Callable[..., Tensor], Tensors, dict[str, float]]] = {
    "rms_norm": (rms_norm, norm_problem(2, 70, 50), {"eps": EPS}),
    "residual": (residual, residual_problem(2, 70, 50), {"dropout": 0.3}),
    "swiglu": (swiglu, {"gate_up": torch.randn(2, 70, 50)}, {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    call, tensors, options = CALLS[name]
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            found.append(results(call, tensors, torch.float32, backend="cpp", **options))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_bfloat16_is_float32_rounded_at_the_ends(name: str) -> None:
    call, tensors, options = CALLS[name]
    half = {key: None if t is None else t.bfloat16().contiguous() for key, t in tensors.items()}
    wide = {key: None if t is None else t.float() for key, t in half.items()}
    found = []
    for problem in (half, wide):
        leaves = {key: None if t is None else t.detach().requires_grad_() for key, t in problem.items()}
        torch.manual_seed(0)
        y = call(**leaves, backend="cpp", **options)
        found.append([y, *torch.autograd.grad(y.float().sum(), list(leaves.values()))])
    assert found[0][0].dtype == torch.bfloat16
    for value, target in zip(*found, strict=True):
        torch.testing.assert_close(value.float(), target, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("name", CALLS)
def test_nan_reaches_the_output_and_the_gradients(name: str) -> None:
    call, tensors, options = CALLS[name]
    for spoiled in [key for key in ("x", "h", "gate", "gate_up") if tensors.get(key) is not None]:
        spoilt = {
            key: None if t is None else t.clone(memory_format=torch.contiguous_format) for key, t in tensors.items()
        }
        spoilt[spoiled].view(-1)[3] = torch.nan
        y, *grads = results(call, spoilt, torch.float32, backend="cpp", **options)
        assert y.isnan().any()
        assert spoiled == "x" and name == "residual" or any(g.isnan().any() for g in grads)  # a sum's gradient is 1


@pytest.mark.parametrize("name", CALLS)
def test_what_ran_is_recorded_and_what_cannot_run_is_refused(name: str) -> None:
    call, tensors, options = CALLS[name]
    for backend in ("cpp", "torch", "reference"):
        reset_backends_used()
        call(**tensors, backend=backend, **options)
        assert backends_used() == {name: backend}
    double = {key: None if t is None else t.double() for key, t in tensors.items()}
    with pytest.raises(ValueError, match="cpp"):
        call(**double, backend="cpp", **options)
    assert call(**double, **options).dtype == torch.float64


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_residuals_have_the_dtype_that_their_parts_promote_to(dropout: float) -> None:
    """Whatever of stream, branch and gate is wider, or is not there; every gradient has its input's dtype."""
    tensors = residual_problem(2, 40, 17)
    kinds = {"x": (torch.float32, torch.bfloat16, None), "h": (torch.float32, torch.bfloat16)}
    for x, h, gate in itertools.product(kinds["x"], kinds["h"], kinds["x"]):
        dtypes = {"x": x, "h": h, "gate": gate}
        mixed = {key: None if dtype is None else tensors[key].to(dtype) for key, dtype in dtypes.items()}
        wide = {key: None if t is None else t.float() for key, t in mixed.items()}
        found = []
        for problem in (mixed, wide):
            leaves = {key: None if t is None else t.requires_grad_() for key, t in problem.items()}
            torch.manual_seed(0)
            y = residual(**leaves, dropout=dropout, backend="cpp")
            there = [t for t in leaves.values() if t is not None]
            found.append([y, *torch.autograd.grad(y.float().square().sum(), there)])
        expected = residual(**mixed, backend="reference").dtype
        assert [t.dtype for t in found[0]] == [expected, *(dtype for dtype in dtypes.values() if dtype)], dtypes
        for value, target in zip(*found, strict=True):
            torch.testing.assert_close(value.float(), target, atol=0.02 * target.abs().max().item(), rtol=0)


def test_shapes_that_do_not_fit() -> None:
    x, vector = torch.zeros(2, 3, 4), torch.zeros(2, 4)
    with pytest.raises(ValueError, match="x must be .batch, length, channels., none of them empty"):
        rms_norm(x[:0], eps=EPS)
    with pytest.raises(ValueError, match="weight must have shape .4,."):
        rms_norm(x, torch.zeros(3), eps=EPS)
    with pytest.raises(ValueError, match="gate must have shape .2, 3, 4."):
        rms_norm(x, gate=x[:, :2], eps=EPS)
    with pytest.raises(ValueError, match="both or neither"):
        rms_norm(x, shift=vector, eps=EPS)
    with pytest.raises(ValueError, match="scale must have shape .2, 4."):
        rms_norm(x, shift=vector, scale=vector[:1], eps=EPS)
    with pytest.raises(ValueError, match="x must have shape"):
        residual(x[:1], x)
    with pytest.raises(ValueError, match="gate must have shape"):
        residual(x, x, gate=vector[:1])
    with pytest.raises(ValueError, match=r"dropout=1.5 must lie in 0 \.\. 1"):
        residual(x, x, dropout=1.5)
    with pytest.raises(ValueError, match="as many gates as ups"):
        swiglu(x[..., :3])
