"""The operators as torch sees them: opcheck, torch.compile, meta tensors, autocast, FLOP counts."""

import random
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.kernels import (
    backends_used,
    conv_op,
    depthwise_conv1d,
    flops,
    reset_backends_used,
    residual,
    rms_norm,
    scan_op,
    selective_scan,
    ssd,
    ssd_op,
    swiglu,
)
from lightning_modules.kernels.pytorch import ssd as pytorch_ssd
from lightning_modules.kernels.ssd_inputs import SSDInputs
from tests.kernels.problems import small_scan

FAST = ["cpp", "torch"]
operators = torch.ops.ablate


def scan_leaves() -> dict[str, torch.Tensor]:
    return {name: t.requires_grad_() for name, t in small_scan().items()}


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("training", [True, False])
def test_scan_passes_opcheck(backend: str, training: bool) -> None:
    tensors = {name: t.requires_grad_(training) for name, t in small_scan().items()}
    tensors["u"] = tensors["u"].detach().unsqueeze(1).requires_grad_(training)
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
    arguments = (*(tensors[n] for n in names), None, [False, True], True, False, training, True, backend)
    torch.library.opcheck(operators.selective_scan.default, arguments)


@pytest.mark.parametrize("backend", FAST)
def test_convolution_passes_opcheck(backend: str) -> None:
    leaves = (torch.randn(shape, requires_grad=True) for shape in ((2, 9, 5), (5, 3), (5,)))
    torch.library.opcheck(operators.depthwise_conv1d.default, (*leaves, 1, True, backend))


def ssd_arguments(length: int, started: bool, skip: bool) -> list[torch.Tensor | None]:
    """x, dt, A, B, C, D and the initial state of ssd_op, 3 heads of 4 channels, 5 states."""
    shapes = [(2, length, 3, 4), (2, length, 3), (3,), (2, length, 5), (2, length, 5), (3,), (2, 3, 4, 5)]
    generator = torch.Generator().manual_seed(0)
    x, dt, A, *others, D, state = (torch.randn(shape, generator=generator) for shape in shapes)
    return [x, dt.abs(), -A.abs(), *others, D if skip else None, state if started else None]


SSD_CASES = [(9, False, True), (70, False, False), (9, True, False), (70, True, True)]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("length", "started", "skip"), SSD_CASES)
def test_ssd_passes_opcheck(length: int, started: bool, skip: bool, training: bool, backend: str) -> None:
    given = ssd_arguments(length, started, skip)
    arguments = [t if t is None else t.requires_grad_(training) for t in given]
    torch.library.opcheck(operators.ssd.default, (*arguments, training, training, backend))


@pytest.mark.parametrize("backend", FAST)
def test_single_steps_pass_opcheck(backend: str) -> None:
    shapes = ((2, 5), (2, 5), (5, 4), (2, 4), (2, 4))
    arguments = (*(torch.randn(shape) for shape in shapes), None, None, None, True, backend)
    torch.library.opcheck(operators.selective_state_update.default, (torch.zeros(2, 5, 4), *arguments))
    arguments = (torch.randn(2, 5), torch.randn(5, 3), None, True, backend)
    torch.library.opcheck(operators.depthwise_conv1d_update.default, (torch.zeros(2, 2, 5), *arguments))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_operators_on_rows_pass_opcheck(whole: bool, training: bool) -> None:
    """whole: with every optional tensor."""

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape).requires_grad_(training)

    x, gate, vector = leaf(2, 9, 5), leaf(2, 9, 5), leaf(2, 5)
    torch.library.opcheck(
        operators.rms_norm.default, (x, vector, gate, vector, 1e-5) if whole else (x, None, None, None, 1e-5)
    )
    seed = torch.tensor(7)
    arguments = (x, gate, vector, seed, 0.3) if whole else (None, gate, None, None, 0.0)
    torch.library.opcheck(operators.residual.default, arguments)
    torch.library.opcheck(operators.swiglu.default, (leaf(2, 9, 6),))


def test_rows_compile_into_one_graph() -> None:
    def block(x: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        h = rms_norm(x, eps=1e-5, gate=x, shift=vector, scale=vector)
        return residual(x, swiglu(torch.cat([h, x], -1)), gate=vector, dropout=0.5)

    eager, compiled = ([torch.ones(2, 9, 5).requires_grad_(), torch.ones(2, 5).requires_grad_()] for _ in range(2))
    torch.manual_seed(0)
    expected = block(*eager)
    torch.manual_seed(0)
    y = torch.compile(block, fullgraph=True, backend="aot_eager")(*compiled)
    torch.testing.assert_close(y, expected)
    expected.sum().backward()
    y.sum().backward()
    for ours, theirs in zip(compiled, eager, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("backend", [None, "torch"])
def test_compiles_into_one_graph(backend: str | None) -> None:
    weight = torch.randn(5, 3)

    def block(**tensors: torch.Tensor) -> torch.Tensor:
        u = depthwise_conv1d(tensors.pop("u"), weight, backend=backend)
        return selective_scan(u, **tensors, directions=("forward", "reverse"), backend=backend) * 2

    eager, compiled = scan_leaves(), scan_leaves()
    expected, y = block(**eager), torch.compile(block, fullgraph=True, backend="aot_eager")(**compiled)
    torch.testing.assert_close(y, expected)
    expected.sum().backward()
    y.sum().backward()
    for name in eager:
        torch.testing.assert_close(compiled[name].grad, eager[name].grad)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_a_scan_in_a_given_order_is_traced_without_its_values(backend: str) -> None:
    """Fake tensors have none, and a compiled graph cannot ask for them."""
    tensors, order = small_scan(), torch.stack([torch.arange(9), torch.arange(9).flip(0)])

    def scan(order: torch.Tensor, **tensors: torch.Tensor) -> torch.Tensor:
        return selective_scan(**tensors, order=order, backend=backend)

    expected = scan(order, **tensors)
    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(order, **tensors), expected)
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(tensor) for name, tensor in tensors.items()}
        assert scan(mode.from_tensor(order), **fake).shape == expected.shape


def test_ssd_compiles_into_one_graph_that_records_its_back_end() -> None:
    x, dt, A, B, C, D, _ = ssd_arguments(70, started=False, skip=True)

    def block(*tensors: torch.Tensor) -> torch.Tensor:
        return ssd(*tensors, direction="reverse") * 2

    eager, compiled = ([t.clone().requires_grad_() for t in (x, dt, A, B, C, D)] for _ in range(2))
    graph = torch.compile(block, fullgraph=True, backend="aot_eager")
    expected, y = block(*eager), graph(*compiled)
    torch.testing.assert_close(y, expected)
    expected.square().sum().backward()
    y.square().sum().backward()
    for ours, theirs in zip(compiled, eager, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    reset_backends_used()
    graph(*compiled)
    assert backends_used() == {"ssd": "cpp"}


def test_compiled_ssd_takes_a_state_in_any_layout() -> None:
    """The graph is traced with the strides that the operator promises."""
    *inputs, state = ssd_arguments(9, started=True, skip=True)

    def flat_state(*tensors: torch.Tensor) -> torch.Tensor:
        return ssd(*tensors[:-1], initial_state=tensors[-1], return_final_state=True)[1].flatten(1)

    inputs.append(state.mT.contiguous().mT)
    compiled = torch.compile(flat_state, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), flat_state(*inputs))


def test_meta_tensors_give_shapes_only() -> None:
    tensors = {name: t.to("meta") for name, t in small_scan().items()}
    y, state = selective_scan(**tensors, merge="stack", return_final_state=True)
    assert y.is_meta and y.shape == (2, 2, 9, 5) and state.shape == (2, 2, 5, 4)


def test_autocast_halves_activations_and_keeps_parameters() -> None:
    tensors = scan_leaves()
    with torch.autocast("cpu", torch.bfloat16):
        y, state = selective_scan(**tensors, return_final_state=True)
        convolved = depthwise_conv1d(tensors["u"], torch.randn(5, 3))
    assert y.dtype == convolved.dtype == torch.bfloat16 and state.dtype == torch.float32
    exact = selective_scan(**{n: t.detach().double() for n, t in tensors.items()}, backend="reference")
    assert (y.double() - exact).abs().max() / exact.abs().max() < 3e-2
    y.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in tensors.values())


@pytest.mark.parametrize("backend", FAST)
def test_autocast_ends_at_the_operator(backend: str) -> None:
    """What a back end does inside is as precise as without it."""
    tensors, weight = small_scan(), torch.randn(5, 3)
    halves = {n: t.bfloat16() if n in ("u", "delta", "B", "C", "z") else t for n, t in tensors.items()}
    results = []
    for given, enabled in ((tensors, True), (halves, False)):
        leaves = {n: t.clone().requires_grad_() for n, t in given.items()}
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = selective_scan(**leaves, backend=backend)
            convolved = depthwise_conv1d(leaves["u"], weight, backend=backend)
            y.backward(torch.ones_like(y))
        results.append([y, convolved, leaves["A"].grad, leaves["D"].grad])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("backend", FAST)
def test_flops_are_counted_by_the_shared_formula(backend: str) -> None:
    x, weight = torch.randn(2, 9, 5, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        selective_scan(**scan_leaves(), backend=backend).sum().backward()
        depthwise_conv1d(x, weight, backend=backend).sum().backward()
    scan, conv = flops.selective_scan(2, 2, 9, 5, 4, gates=1), flops.depthwise_conv1d(2, 9, 5, 3)
    assert counter.get_total_flops() == (scan + conv) * (1 + flops.BACKWARD_FACTOR)


@pytest.mark.parametrize("device", ["cpu", "meta"])  # "meta": as on a GPU, where the product is made another way
@pytest.mark.parametrize(("length", "started", "skip"), SSD_CASES)
def test_ssd_flops_are_those_of_its_matrix_products(length: int, started: bool, skip: bool, device: str) -> None:
    inputs = [t if t is None else t.to(device).requires_grad_() for t in ssd_arguments(length, started, skip)]
    with FlopCounterMode(display=False) as operators:
        y, *_ = ssd_op.ssd(*inputs, True, True, "torch")
        y.sum().backward()
    with torch.no_grad(), FlopCounterMode(display=False) as products:
        given = SSDInputs(*inputs)
        y, _, saved = pytorch_ssd.forward(given, training=True, want_state=True)
        pytorch_ssd.backward(given, saved, torch.ones_like(y), None)
    assert operators.get_total_flops() == products.get_total_flops() > 0


@pytest.mark.parametrize(("merge", "gates"), [("sum", 1), ("stack", 2)])
def test_flops_of_a_gate_are_those_of_every_output_it_multiplies(merge: str, gates: int) -> None:
    with FlopCounterMode(display=False) as counter:
        selective_scan(**small_scan(), merge=merge)
    assert counter.get_total_flops() == 2 * 2 * 9 * 5 * (7 * 4 + 5) + 5 * gates * 2 * 9 * 5


def laid_out(tensor: torch.Tensor | None, layout: str) -> torch.Tensor | None:
    """The same shape in other memory: axes in another order, every other element of a wider tensor, or all the same."""
    if tensor is None or tensor.ndim < 2:
        return tensor
    if layout.startswith(("permuted", "channels last")):
        axes = random.Random(f"{layout} {list(tensor.shape)}").sample(range(tensor.ndim), tensor.ndim)
        if layout == "channels last":  # which torch's own functions carry over to their results
            axes = [0, *range(2, tensor.ndim), 1]
        return tensor.permute(axes).contiguous().permute([axes.index(axis) for axis in range(tensor.ndim)])
    if layout == "sliced":
        return torch.cat([tensor, tensor], -1).unflatten(-1, (2, -1)).mT.flatten(-2)[..., ::2]
    return tensor[:1].expand(tensor.shape)


LAYOUTS = [*(f"permuted {seed}" for seed in range(4)), "channels last", "sliced", "expanded"]
BACKWARD_CHECKS = ("test_schema", "test_faketensor")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("stack", [False, True])
def test_scan_and_its_backward_pass_opcheck_in_any_layout(backend: str, stack: bool, layout: str) -> None:
    tensors = small_scan()
    tensors["u"] = tensors["u"].unsqueeze(1)
    inputs = [laid_out(t, layout) for t in tensors.values()]
    options = (None, [False, True], True, stack)
    torch.library.opcheck(
        operators.selective_scan.default, (*inputs, *options, True, True, backend), test_utils=BACKWARD_CHECKS
    )
    y, state, ungated, checkpoints = scan_op.selective_scan(*inputs, *options, True, True, backend)
    received = (laid_out(torch.randn(t.shape), layout) for t in (y, state))
    arguments = (*inputs, *options, ungated, checkpoints, *received, backend)
    torch.library.opcheck(operators.selective_scan_backward.default, arguments, test_utils=BACKWARD_CHECKS)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", FAST)
def test_convolution_and_its_backward_pass_opcheck_in_any_layout(backend: str, layout: str) -> None:
    x, weight, received = (laid_out(torch.randn(shape), layout) for shape in ((2, 9, 5), (5, 3), (2, 9, 5)))
    bias = torch.randn(5)
    torch.library.opcheck(
        operators.depthwise_conv1d.default, (x, weight, bias, 1, True, backend), test_utils=BACKWARD_CHECKS
    )
    arguments = (x, weight, bias, received, 1, True, backend)
    torch.library.opcheck(operators.depthwise_conv1d_backward.default, arguments, test_utils=BACKWARD_CHECKS)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("length", "started", "skip"), SSD_CASES)
def test_ssd_and_its_backward_pass_opcheck_in_any_layout(
    length: int, started: bool, skip: bool, backend: str, layout: str
) -> None:
    inputs = [laid_out(t, layout) for t in ssd_arguments(length, started, skip)]
    torch.library.opcheck(operators.ssd.default, (*inputs, True, True, backend), test_utils=BACKWARD_CHECKS)
    y, state, *saved = ssd_op.ssd(*inputs, True, True, backend)
    received = (laid_out(torch.randn(t.shape), layout) for t in (y, state))
    torch.library.opcheck(
        operators.ssd_backward.default, (*inputs, *saved, *received, backend), test_utils=BACKWARD_CHECKS
    )


@pytest.mark.parametrize("backend", FAST)
def test_forward_mode_is_refused(backend: str) -> None:
    """Its derivatives would be zero; without a tangent there is nothing to refuse."""
    tensors, weight = small_scan(), torch.randn(5, 3)
    x, *others, _, _ = ssd_arguments(9, started=False, skip=False)
    functions = [
        (lambda u: selective_scan(**{**tensors, "u": u}, backend=backend), tensors["u"]),
        (lambda u: depthwise_conv1d(u, weight, backend=backend), tensors["u"]),
        (lambda v: ssd(v, *others, backend=backend), x),
    ]
    for function, value in functions:
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            torch.func.jvp(function, (value,), (value,))
        with torch.autograd.forward_ad.dual_level():
            assert torch.equal(function(value), function(value))
            with pytest.raises(RuntimeError, match="no forward-mode derivative"):
                function(torch.autograd.forward_ad.make_dual(value, value))


def test_only_what_is_wanted_is_computed() -> None:
    tensors = small_scan()
    y, state, ungated, checkpoints = scan_op.selective_scan(
        tensors["u"].unsqueeze(1),
        *(tensors[n] for n in ("delta", "A", "B", "C")),
        *(None,) * 5,
        [False, False],
        True,
        False,
        False,
        False,
        "cpp",
    )
    assert y.numel() and not state.numel() and not ungated.numel() and not checkpoints.numel()


class Listener(TorchDispatchMode):
    """A mode that keeps the names of the operators it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class EarlyListener(TorchFunctionMode):
    """The same above autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Marked(torch.Tensor):
    """A tensor that knows what was done to it."""

    done: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.done.append(str(func))
        return super().__torch_function__(func, types, args, kwargs)


def _profiled(x: torch.Tensor) -> list[str]:
    with torch.profiler.profile() as profile:
        swiglu(x)
    return [event.name for event in profile.events()]


def _listened(listener: Listener | EarlyListener, x: torch.Tensor) -> list[str]:
    with listener:
        swiglu(x)
    return listener.seen


def _traced(x: torch.Tensor) -> list[str]:
    return [str(torch.jit.trace(swiglu, x, check_trace=False).graph)]


def _marked(x: torch.Tensor) -> list[str]:
    Marked.done.clear()
    swiglu(x.as_subclass(Marked))
    return Marked.done


@pytest.mark.filterwarnings("ignore:`torch.jit.trace", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "watch",
    [
        _profiled,
        lambda x: _listened(Listener(), x),
        lambda x: _listened(EarlyListener(), x),
        _marked,
        _traced,
    ],
    ids=["profiler", "dispatch mode", "function mode", "subclass", "trace"],
)
def test_whoever_watches_sees_the_operator(watch: Callable[[torch.Tensor], list[str]]) -> None:
    assert any("swiglu" in name and "ablate" in name for name in watch(torch.randn(2, 3, 8)))


@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented")
def test_a_batch_that_vmap_adds_is_one() -> None:
    x = torch.randn(4, 2, 3, 8)
    assert torch.equal(torch.func.vmap(swiglu)(x), torch.stack([swiglu(part) for part in x]))


@pytest.mark.parametrize("backend", FAST)
def test_with_and_without_the_dispatcher_results_are_the_same(backend: str) -> None:
    x, weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((2, 9, 5), (5, 3), (5,)))
    results = []
    for call in (conv_op.depthwise_conv1d, operators.depthwise_conv1d.default):
        y = call(x, weight, bias, 1, True, backend)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, weight, bias))))
        with torch.no_grad():
            assert torch.equal(call(x, weight, bias, 1, True, backend), y)
    assert all(torch.equal(direct, dispatched) for direct, dispatched in zip(*results, strict=True))
