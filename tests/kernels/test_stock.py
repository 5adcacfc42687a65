"""The adapters to mamba-ssm and causal-conv1d, with stand-ins that keep to the packages' documented interfaces.

The stand-ins refuse the layouts that the real kernels refuse; what they compute is the suite's own definition. With a
GPU and the packages, the last test runs the real ones.
"""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from lightning_modules.kernels import available, backends_used, depthwise_conv1d, dispatch, reset_backends_used, ssd
from lightning_modules.kernels import selective_scan as own_scan
from lightning_modules.kernels.stock import availability
from tests.kernels.problems import relative_errors, run_scan, small_scan


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    """u, delta, z: (B, C, L), last axis contiguous; A: (C, N); B, C: (B, N, L) -> (B, C, L), state (B, C, N)."""
    assert all(t is None or t.stride(-1) == 1 for t in (u, delta, B, C, z))
    assert A.dtype == torch.float32 and delta_bias.dtype == torch.float32
    tensors = (t if t is None else t.mT for t in (u, delta))
    y, state = own_scan(
        *tensors, A, B.mT, C.mT, D, None if z is None else z.mT, delta_bias,
        softplus=delta_softplus, return_final_state=True, backend="reference",
    )  # fmt: skip
    assert return_last_state
    return y.mT, state[:, 0]


def causal_conv1d_fn(x, weight, bias=None, seq_idx=None, activation=None):
    """x: (B, C, L), channels contiguous; weight: (C, 2..4) -> (B, C, L)."""
    assert x.stride(1) == 1 and x.stride(2) % 8 == 0 and 2 <= weight.shape[1] <= 4
    return depthwise_conv1d(x.mT, weight, bias, padding="causal", activation=activation, backend="reference").mT


def mamba_chunk_scan_combined(
    x, dt, A, B, C, chunk_size, D=None, initial_states=None, dt_softplus=False, return_final_states=False
):
    """x: (B, L, H, P), dt: (B, L, H), B, C: (B, L, groups, N)."""
    assert B.shape[2] == C.shape[2] == 1 and chunk_size == 256 and return_final_states and dt.dtype == torch.float32
    return ssd(
        x, dt, A, B[:, :, 0], C[:, :, 0], D,
        softplus=dt_softplus, initial_state=initial_states, return_final_state=True, backend="reference",
    )  # fmt: skip


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    def module(name: str, **content: object) -> None:
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    module("mamba_ssm"), module("mamba_ssm.ops"), module("mamba_ssm.ops.triton")
    module("mamba_ssm.ops.selective_scan_interface", selective_scan_fn=selective_scan_fn)
    module("mamba_ssm.ops.triton.ssd_combined", mamba_chunk_scan_combined=mamba_chunk_scan_combined)
    module("causal_conv1d", causal_conv1d_fn=causal_conv1d_fn)
    for name in ("mamba_ssm", "causal_conv1d"):
        backend = dataclasses.replace(
            dispatch.BACKENDS[name], missing=lambda operation: None, devices=frozenset({"cpu"})
        )
        monkeypatch.setitem(dispatch.BACKENDS, name, backend)
    reset_backends_used()


def _without_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != "initial_state"}


@pytest.mark.parametrize("merge", ["sum", "stack"])
@pytest.mark.parametrize("ordered", [False, True])
def test_every_direction_agrees_with_the_definition(stand_ins: None, merge: str, ordered: bool) -> None:
    tensors = _without_state(small_scan(2, 3, 9, 5, 4))
    if ordered:
        order = torch.stack([torch.randperm(9, generator=torch.Generator().manual_seed(k)) for k in range(3)]).int()
        options: dict[str, object] = {"order": order, "merge": merge}
    else:
        options = {"directions": ("forward", "reverse", "reverse"), "merge": merge}
    grads = _gradients(tensors, options, "mamba_ssm")
    assert "mamba_ssm" in backends_used()["selective_scan"]
    errors = relative_errors(grads, _gradients(tensors, options, "reference", torch.float64))
    assert max(errors.values()) < 5e-6, errors


def _gradients(tensors, options, backend: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Output, state and the gradients of the output, which alone has one in the package."""
    leaves = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in tensors.items()}
    y = own_scan(**leaves, **options, backend=backend)
    with torch.no_grad():
        _, state = own_scan(**leaves, **options, return_final_state=True, backend=backend)
    received = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    grads = torch.autograd.grad(y, list(leaves.values()), received)
    return {"y": y, "state": state, **dict(zip(leaves, grads, strict=True))}


def test_a_scan_that_does_not_start_from_zero_goes_elsewhere(stand_ins: None) -> None:
    with pytest.raises(ValueError, match="always starts from a zero state"):
        run_scan(small_scan(), {}, "mamba_ssm")


def test_a_scan_whose_final_state_wants_a_gradient_goes_elsewhere(stand_ins: None) -> None:
    tensors = {name: tensor.requires_grad_() for name, tensor in _without_state(small_scan()).items()}
    with pytest.raises(ValueError, match="its final state has no gradient"):
        own_scan(**tensors, directions=("forward",), return_final_state=True, backend="mamba_ssm")


def test_a_single_position_of_a_wider_tensor_is_packed(stand_ins: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as contiguous whatever lies between rows; the package wants strides of multiples of 8."""
    strides = []
    package = sys.modules["causal_conv1d"].causal_conv1d_fn
    watched = lambda x, *more, **named: strides.append(x.stride()) or package(x, *more, **named)  # noqa: E731
    monkeypatch.setattr(sys.modules["causal_conv1d"], "causal_conv1d_fn", watched)
    x = torch.zeros(1, 1, 772)[..., 256:768]
    depthwise_conv1d(x, torch.zeros(512, 4), padding="causal", backend="causal_conv1d")
    assert strides == [(512, 1, 512)]


def test_a_scan_of_more_states_than_the_kernel_takes_goes_elsewhere(stand_ins: None) -> None:
    tensors = _without_state(small_scan(1, 1, 2, 2, 257))
    with pytest.raises(ValueError, match="up to 256 states, not 257"):
        run_scan(tensors, {}, "mamba_ssm")


@pytest.mark.parametrize("absent", ["selective_scan_cuda", "mamba_ssm.ops.selective_scan_interface"])
def test_a_package_that_does_not_load_is_passed_over(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        if name == absent:
            raise ImportError("undefined symbol: _ZN3c10")

    monkeypatch.setattr(availability.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(availability.importlib, "import_module", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    availability.missing.cache_clear()
    try:
        with pytest.warns(UserWarning, match="install mamba-ssm anew"):
            found = availability.missing("selective_scan")
        assert found == "mamba-ssm does not load (ImportError: undefined symbol: _ZN3c10)"
        assert availability.missing("ssd") is None, "which needs other parts of the package"
    finally:
        availability.missing.cache_clear()


def test_flash_attn_without_its_functions_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with flash-attn-4 by itself: there is a package of that name, and nothing in it."""
    monkeypatch.setattr(availability.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    availability.missing.cache_clear()
    try:
        with pytest.warns(UserWarning, match="install flash-attn anew"):
            assert "flash-attn does not load" in (availability.missing("attention") or "")
    finally:
        availability.missing.cache_clear()


def test_causal_convolutions_only(stand_ins: None) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator) for shape in ((2, 7, 16), (16, 4)))
    bias = torch.randn(16, generator=generator)
    found = depthwise_conv1d(x, weight, bias, padding="causal", backend="causal_conv1d")
    exact = depthwise_conv1d(x.double(), weight.double(), bias.double(), padding="causal", backend="reference")
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
    assert backends_used()["depthwise_conv1d"] == "causal_conv1d+reference"
    with pytest.raises(ValueError, match="causal convolutions only"):
        depthwise_conv1d(x, weight[:, :3], padding="same", backend="causal_conv1d")
    with pytest.raises(ValueError, match="multiples of 8 channels"):
        depthwise_conv1d(x[..., :5], weight[:5], padding="causal", backend="causal_conv1d")
    with pytest.raises(ValueError, match="2 to 4 taps, not 5"):
        depthwise_conv1d(x, torch.zeros(16, 5), padding="causal", backend="causal_conv1d")


def test_ssd_in_both_directions(stand_ins: None) -> None:
    generator = torch.Generator().manual_seed(0)
    x, delta, B, C, A, D = (
        torch.randn(shape, generator=generator) for shape in ((2, 6, 3, 4), (2, 6, 3), (2, 6, 5), (2, 6, 5), (3,), (3,))
    )
    for direction in ("forward", "reverse"):
        found = ssd(x, delta, -A.abs(), B, C, D, direction=direction, backend="mamba_ssm")
        exact = ssd(x, delta, -A.abs(), B, C, D, direction=direction, backend="torch")
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)


def test_why_they_do_not_run_here_is_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    assert available()["selective_scan"]["mamba_ssm"] in ("mamba-ssm is not installed (extra 'cuda')", "no CUDA device")
    assert "causal-conv1d" in (available()["depthwise_conv1d"]["causal_conv1d"] or "")


def test_the_real_packages_agree_with_the_definition() -> None:
    reason = available()["selective_scan"]["mamba_ssm"]
    if reason:
        pytest.skip(reason)
    tensors = {name: tensor.cuda() for name, tensor in _without_state(small_scan(2, 2, 33, 8, 16)).items()}
    options = {"directions": ("forward", "reverse")}
    exact = _gradients(tensors, options, "reference", torch.float64)
    errors = relative_errors(_gradients(tensors, options, "mamba_ssm"), exact)
    assert max(errors.values()) < 1e-4, errors
