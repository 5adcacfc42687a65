"""oneDNN's matrix product against PyTorch's in float64, and when it runs."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.kernels import backends_used, linear, linear_op, onednn, reset_backends_used
from lightning_modules.layers.linear import Linear, adopt

pytestmark = pytest.mark.skipif(onednn.missing() is not None, reason=f"{onednn.missing()}")


@pytest.fixture(autouse=True)
def fresh_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABLATE_KERNELS", raising=False)
    reset_backends_used()


def with_gradients(tensors: list[Tensor], **options: str) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = linear(*leaves, **options)
    received = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad(y, leaves, received)]


def strided(shape: list[int], how: str, generator: torch.Generator) -> Tensor:
    """Random numbers, as products of a network meet them: a slice of something wider, turned, spread, or plain."""
    *rows, columns = shape
    if how == "slice":
        return torch.randn(*rows, 3 * columns, generator=generator)[..., columns : 2 * columns]
    if how == "turned":
        return torch.randn(*shape[::-1], generator=generator).permute(*range(len(shape))[::-1])
    if how == "spread":
        return torch.randn(*[1] * len(rows), columns, generator=generator).expand(shape)
    return torch.randn(shape, generator=generator)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    width=st.sampled_from([1, 7, 16, 33, 130]),
    outputs=st.sampled_from([1, 5, 32, 131]),
    bias=st.booleans(),
    how=st.sampled_from(["plain", "slice", "turned", "spread"]),
    turned=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_values_and_gradients(
    rows: list[int], width: int, outputs: int, bias: bool, how: str, turned: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = strided([*rows, width], how, generator)
    weight = strided([outputs, width], "turned" if turned else "plain", generator)
    tensors = [x, weight, torch.randn(outputs, generator=generator)][: 3 if bias else 2]
    exact = with_gradients([t.double() for t in tensors], backend="reference")
    for value, target in zip(with_gradients(tensors, backend="onednn"), exact, strict=True):
        assert value.shape == target.shape
        assert (value.double() - target).abs().max() <= 2e-6 * target.abs().max().clamp(min=1)


def test_it_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    expected = torch.autograd.functional.hessian(lambda a, b: F.linear(a, b).pow(3).sum(), (x, weight))
    found = torch.autograd.functional.hessian(lambda a, b: linear_op.linear(a, b, None).pow(3).sum(), (x, weight))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_only_wanted_gradients_are_computed() -> None:
    x, weight, bias = torch.randn(9, 8), torch.randn(6, 8, requires_grad=True), torch.randn(6)
    with FlopCounterMode(display=False) as counter:
        linear(x, weight, bias, backend="onednn").sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 9 * 8 * 6


def test_it_counts_as_many_operations_as_pytorch() -> None:
    found = []
    for backend in ("onednn", "torch"):
        leaves = [torch.randn(2, 9, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True), torch.randn(6)]
        with FlopCounterMode(display=False) as counter:
            linear(*leaves, backend=backend).sum().backward()
        found.append(counter.get_total_flops())
    assert found[0] == found[1] == 3 * 2 * 18 * 8 * 6


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_a_well_formed_operator(bias: bool) -> None:
    leaves = [torch.randn(*shape, requires_grad=True) for shape in ((2, 5, 8), (6, 8), (6,))]
    torch.library.opcheck(torch.ops.ablate.linear.default, (*leaves[:2], leaves[2] if bias else None))


@pytest.mark.parametrize("gains", [True, False])
def test_compiled(gains: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one graph, whichever is taken."""
    monkeypatch.setattr(onednn, "_gains", lambda: gains)
    torch._dynamo.reset()
    layer, x = Linear(256, 128), torch.randn(2, 32, 256)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), F.linear(x, layer.weight, layer.bias))
    compiled(x).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((128,), 64.0))
    assert backends_used() == {"linear": "onednn" if gains else "torch"}


def choice(x: Tensor, weight: Tensor) -> str:
    """What is recorded; nothing of small products."""
    reset_backends_used()
    linear(x, weight)
    return backends_used().get("linear", "")


def test_it_runs_where_it_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large products in float32, on processors for which PyTorch's own have no AVX-512."""
    x, weight = torch.randn(64, 256), torch.randn(128, 256)
    assert x.numel() * len(weight) == onednn.SMALLEST
    monkeypatch.setattr(onednn, "_gains", lambda: True)
    assert choice(x, weight) == "onednn"
    assert choice(x[1:], weight) == ""
    assert choice(x.double(), weight.double()) == "torch"
    with torch.autocast("cpu", torch.bfloat16):
        assert choice(x, weight) == "torch"
        assert linear(x, weight).dtype == torch.bfloat16
    monkeypatch.setattr(onednn, "_gains", lambda: False)
    assert choice(x, weight) == "torch"


@pytest.mark.parametrize(
    ("cpu", "mkl", "capability", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\n", True, "AVX512", True),
        ("vendor_id\t: GenuineIntel\n", True, "AVX512", False),
        ("vendor_id\t: AuthenticAMD\n", True, "AVX2", False),
        ("vendor_id\t: AuthenticAMD\n", False, "AVX512", False),
        ("CPU implementer\t: 0x41\n", True, "DEFAULT", False),
    ],
)
def test_processors_on_which_it_gains(
    cpu: str, mkl: bool, capability: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: cpu)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert onednn._gains.__wrapped__() is expected


def test_a_precision_that_it_does_not_have_is_refused_by_name() -> None:
    x, weight = torch.randn(3, 8), torch.randn(6, 8)
    with pytest.raises(ValueError, match="cannot run linear: it takes float32, not bfloat16"):
        linear(x.bfloat16(), weight.bfloat16(), backend="onednn")
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="not bfloat16"):
        linear(x.bfloat16(), weight, backend="onednn")


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (torch.ones(3, 7), torch.ones(6, 8), None),
        (torch.ones(3, 8), torch.ones(6, 8), torch.ones(5)),
        (torch.ones(3, 8), torch.ones(6, 8).bfloat16(), None),
        (torch.ones(3, 8), torch.ones(6, 8), torch.ones(6).double()),
    ],
    ids=["width", "bias", "weight's type", "bias's type"],
)
def test_what_does_not_fit_is_refused_as_pytorch_does(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    with pytest.raises(RuntimeError) as expected:
        F.linear(x, weight, bias)
    with pytest.raises(RuntimeError) as found:
        linear(x, weight, bias, backend="onednn")
    assert str(found.value) == str(expected.value)


def test_no_rows_and_a_bias_for_all() -> None:
    weight = torch.randn(6, 8, requires_grad=True)
    linear(torch.randn(0, 8), weight, backend="onednn").sum().backward()
    assert torch.equal(weight.grad, torch.zeros(6, 8))
    x = torch.randn(3, 8)
    torch.testing.assert_close(linear(x, weight, torch.ones(1), backend="onednn"), F.linear(x, weight) + 1)


def test_a_network_of_another_library_is_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_KERNELS", "linear=onednn")
    network = nn.Sequential(nn.Linear(8, 6), nn.Sequential(nn.Linear(6, 4, bias=False)))
    x, weights = torch.randn(3, 8), network.state_dict()
    expected = network(x)
    adopt(network)
    torch.testing.assert_close(network(x), expected)
    assert network.state_dict().keys() == weights.keys()
    assert backends_used() == {"linear": "onednn"}
