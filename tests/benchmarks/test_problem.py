"""Contenders and their errors against the definition."""

import dataclasses
import importlib
import os

import pytest
import torch

from experiments.benchmarks import peers, scan, ssd
from experiments.benchmarks.bench import Bench
from experiments.benchmarks.peers import PEERS, causal_convs, scans
from experiments.benchmarks.problem import OURS, fitting, forced, relative_errors, verify
from experiments.errors import UserError
from lightning_modules.backends import DEPTHWISE_CONV1D, ENVIRONMENT_VARIABLE, SELECTIVE_SCAN
from lightning_modules.kernels import dispatch
from lightning_modules.kernels import ssd as duality
from lightning_modules.kernels.stock import availability


def test_nan_is_an_error() -> None:
    inputs = [torch.randn(2, 3, requires_grad=False) for _ in range(2)]
    wrong = relative_errors({"ours": lambda x, w: x * w.sqrt()}, lambda x, w: x * w, [inputs[0], -inputs[1].abs()])
    assert wrong["ours, gradients"] != wrong["ours, gradients"]
    with pytest.raises(UserError, match="ours, output: an error of nan"):
        verify(Bench("b", "b", "ours"), wrong)


def test_scans_of_other_packages_compute_the_same() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("mambapy")
    found = scans("cpu", PEERS)
    assert [name.partition(" ")[0] for name in found] == ["mambapy", "transformers"]
    verify(Bench("scan", "scan", "ours"), relative_errors(found, scan._ours("reference"), scan._inputs(2, 8, 9, "cpu")))


def test_only_back_ends_for_the_device_compete() -> None:
    """Where there is a GPU, its tensors never reach the processor's kernels."""
    assert fitting(SELECTIVE_SCAN, OURS, "cpu")[-1] == "torch"
    assert "triton" not in fitting(SELECTIVE_SCAN, OURS, "cpu")
    assert "cpp" not in fitting(SELECTIVE_SCAN, OURS, "cuda")
    assert fitting(DEPTHWISE_CONV1D, OURS, "cuda")[-1] == "torch"


def test_back_ends_are_named_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "torch")
    with forced("reference"):
        assert os.environ[ENVIRONMENT_VARIABLE] == "reference"
        with forced(""):
            assert os.environ[ENVIRONMENT_VARIABLE] == "reference"
    assert os.environ[ENVIRONMENT_VARIABLE] == "torch"


def test_a_wrong_contender_is_left_out_and_a_wrong_baseline_is_an_error() -> None:
    bench = Bench("scan", "scan", "cpp")
    errors = {"cpp, output": 1e-7, "torch, output": 1e-7, "peer 1, output": 1e-3, "peer 1, gradients": float("nan")}
    assert verify(bench, errors, optional=["torch", "peer 1"]) == {"peer 1"}
    assert bench.notes == ["peer 1 left out: output: an error of 1.0e-03, where 1e-06 is the most"]
    assert bench.checks.keys() == errors.keys()
    with pytest.raises(
        UserError, match=r"^Nothing was timed: cpp, output: an error of 1\.0e-03, where 1e-06 is the most"
    ):
        verify(bench, {"cpp, output": 1e-3}, optional=["torch", "peer 1"])


def test_a_package_that_rounds_is_measured_by_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the first contender where it is installed: a tolerance that it cannot keep would end the benchmark."""
    package = dataclasses.replace(
        dispatch.BACKENDS["mamba_ssm"], missing=lambda operation: None, devices=frozenset({"cpu"})
    )
    monkeypatch.setitem(dispatch.BACKENDS, "mamba_ssm", package)
    exact = importlib.import_module(duality.__module__).DIRECT
    monkeypatch.setitem(exact, "mamba_ssm", lambda x, *others: exact["reference"](x * (1 + 2**-11), *others))
    bench = ssd.duality(shapes=[(1, 9, 2, 4, 3)], seconds=0, backends=("mamba_ssm", "torch"))
    assert bench.baseline == "mamba_ssm" and {row.contender for row in bench.rows} == {"mamba_ssm", "torch"}
    monkeypatch.setitem(exact, "mamba_ssm", lambda x, *others: exact["reference"](x * 1.1, *others))
    with pytest.raises(UserError, match="Nothing was timed: mamba_ssm, output"):
        ssd.duality(shapes=[(1, 9, 2, 4, 3)], seconds=0, backends=("mamba_ssm", "torch"))


def test_a_package_that_is_installed_but_does_not_load_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """mamba-ssm without its compiled part, say: the others are timed all the same."""
    monkeypatch.setattr(peers, "version", lambda package: "1.0")
    monkeypatch.setattr(availability, "missing", lambda operation: "it does not load (ImportError)")
    assert scans("cuda", ["mamba-ssm"]) == causal_convs("cuda") == {}
