"""Choice of back ends: preference, force, refusal, record."""

import dataclasses

import pytest
import torch

from experiments.benchmarks.cells.training import TrainingCell
from experiments.config import load_config
from lightning_modules.kernels import (
    attend,
    available,
    backends_used,
    depthwise_conv1d,
    dispatch,
    reset_backends_used,
    selective_scan,
)
from tests.kernels.problems import small_scan


@pytest.fixture(autouse=True)
def fresh_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABLATE_KERNELS", raising=False)
    reset_backends_used()


def convolve(dtype: torch.dtype = torch.float32, backend: str | None = None) -> None:
    depthwise_conv1d(torch.zeros(1, 4, 2, dtype=dtype), torch.zeros(2, 3), backend=backend)


def test_the_fastest_that_fits_runs_and_is_recorded() -> None:
    convolve()
    assert backends_used() == {"depthwise_conv1d": "cpp"}
    convolve(torch.float64)
    assert backends_used() == {"depthwise_conv1d": "cpp+torch"}
    reset_backends_used()
    assert backends_used() == {}


def test_the_environment_forces_all_or_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_KERNELS", "torch")
    convolve()
    selective_scan(**small_scan())
    assert backends_used() == {"depthwise_conv1d": "torch", "selective_scan": "torch"}
    reset_backends_used()
    monkeypatch.setenv("ABLATE_KERNELS", "selective_scan=reference")
    convolve()
    selective_scan(**small_scan())
    assert backends_used() == {"depthwise_conv1d": "cpp", "selective_scan": "reference"}


def test_of_several_entries_the_last_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_KERNELS", "selective_scan=reference, torch, depthwise_conv1d=auto")
    convolve()
    selective_scan(**small_scan())
    assert backends_used() == {"depthwise_conv1d": "cpp", "selective_scan": "torch"}


def test_a_forced_back_end_leaves_what_it_does_not_implement_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_KERNELS", "cpp")
    query = torch.zeros(1, 1, 2, 4)
    attend(query, query, query)
    convolve()
    assert backends_used() == {"attention": "torch", "depthwise_conv1d": "cpp"}


@pytest.mark.parametrize("preset", ["maskmamba/demo", "aim/demo", "aim/llamagen-demo", "dimba/demo", "mmamba/demo"])
def test_networks_train_in_bfloat16_on_a_forced_back_end(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams, branches and gates then come in several types."""
    monkeypatch.setenv("ABLATE_KERNELS", "cpp")
    overrides = {"trainer.precision": "bf16", "benchmark.name": "training", "benchmark.batch_size": "2"}
    cell = TrainingCell(load_config(preset, overrides), torch.device("cpu"))
    cell.loss().backward()
    used = backends_used()
    products = [used.pop(operation, "torch") for operation in ("attention", "linear")]
    assert set(products) == {"torch"} and set(used.values()) == {"cpp"}
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in cell.weights())


def test_the_call_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_KERNELS", "torch")
    convolve(backend="reference")
    assert backends_used() == {"depthwise_conv1d": "reference"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("gpu", "ABLATE_KERNELS='gpu' is no back end"),
        ("torch,scan=cpp", "names no operation 'scan'"),
        ("attention=cpp", "ABLATE_KERNELS: cpp does not implement attention"),
    ],
)
def test_a_misspelt_environment_is_refused(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    monkeypatch.setenv("ABLATE_KERNELS", value)
    with pytest.raises(ValueError, match=message):
        convolve()


def test_a_back_end_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="backend='cpp' cannot run depthwise_conv1d: it takes"):
        convolve(torch.float64, backend="cpp")


def test_available_names_every_operation_and_reason() -> None:
    found = available()
    assert set(found) >= {"selective_scan", "depthwise_conv1d"}
    assert all(found[operation]["reference"] is None for operation in found)
    assert all(reason is None or reason for backends in found.values() for reason in backends.values())


def test_a_package_that_would_run_once_per_direction_stands_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the kernel that runs all directions at once, where that can run; unless it is named."""
    ran: list[str] = []
    choose = dispatch.choose
    monkeypatch.setattr(dispatch, "choose", lambda *given: ran.append(choose(*given)) or "reference")
    here = {"missing": lambda operation: None, "devices": frozenset({"cpu"})}
    cpp = dataclasses.replace(dispatch.BACKENDS["cpp"], devices=frozenset({"cuda"}))
    monkeypatch.setitem(dispatch.BACKENDS, "cpp", cpp)  # not taken out: it would come back behind all others
    for name in ("mamba_ssm", "triton"):
        monkeypatch.setitem(dispatch.BACKENDS, name, dataclasses.replace(dispatch.BACKENDS[name], **here))
    one, several = ({n: t for n, t in small_scan(count=k).items() if n != "initial_state"} for k in (1, 2))
    selective_scan(**one)
    selective_scan(**one, directions=("reverse",))
    selective_scan(**one, order=torch.arange(9).flip(0)[None])
    selective_scan(**several)
    selective_scan(**several, backend="mamba_ssm")
    assert ran == ["mamba_ssm", "triton", "triton", "triton", "mamba_ssm"]
    absent = dataclasses.replace(dispatch.BACKENDS["triton"], missing=lambda operation: "no compiler")
    monkeypatch.setitem(dispatch.BACKENDS, "triton", absent)
    selective_scan(**several)
    assert ran[-1] == "mamba_ssm"


@pytest.mark.parametrize(("precision", "fits"), [("highest", False), ("high", True)])
def test_a_package_that_rounds_to_tensor_float_runs_where_that_is_allowed(precision: str, fits: bool) -> None:
    """So that checks in float32 proper, and what they stand for, meet PyTorch's products instead."""
    package = dataclasses.replace(dispatch.BACKENDS["mamba_ssm"], missing=lambda operation: None)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        reason = package.unfit("ssd", torch.device("cuda", 0), torch.float32)
        assert (reason is None) == fits and (fits or "TensorFloat-32" in reason)
        assert package.unfit("ssd", torch.device("cuda", 0), torch.bfloat16) is None
        assert package.unfit("selective_scan", torch.device("cuda", 0), torch.float32) is None, "without products"
    finally:
        torch.set_float32_matmul_precision(before)
