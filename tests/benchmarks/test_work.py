"""The floor: what a call has to do at least."""

from __future__ import annotations

import pytest
import torch

from experiments.benchmarks.bench import FORWARD, TRAINING
from experiments.benchmarks.work import conv_work, floor_of, floors, layer_moves, multiply_adds, scan_work, ssd_work
from lightning_modules.kernels import depthwise_conv1d, selective_scan, ssd
from tests.kernels.problems import small_scan

MACHINE = {"multiply_adds_per_s": 1e9, "bytes_per_s": 4e9}


def test_products_count_their_multiply_adds() -> None:
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert multiply_adds(lambda: a @ b) == 3 * 5 * 7


@pytest.mark.parametrize("count", [1, 2])
def test_scans_count_as_in_their_own_benchmark(count: int) -> None:
    inputs = {name: t.requires_grad_() for name, t in small_scan(2, count, length=6, channels=5, states=4).items()}
    positions = 2 * count * 6 * 5

    def training() -> None:
        selective_scan(**inputs, directions=["reverse"] * count).sum().backward()

    assert multiply_adds(training) == scan_work(positions, 4) + scan_work(positions, 4, backward=True)


@pytest.mark.parametrize("silu", [True, False])
def test_convolutions_count_as_in_their_own_benchmark(silu: bool) -> None:
    x, weight = torch.randn(2, 6, 5, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    positions = 2 * 6 * 5
    call = lambda: depthwise_conv1d(x, weight, activation="silu" if silu else None).sum().backward()  # noqa: E731
    assert multiply_adds(call) == conv_work(positions, 3, silu) + conv_work(positions, 3, silu, backward=True)
    assert conv_work(positions, 3, silu=False) == 3 * positions


@pytest.mark.parametrize("length", [6, 60])
def test_ssd_takes_the_cheaper_form(length: int) -> None:
    batch, heads, width, states = 2, 3, 4, 5
    shapes = (batch, length, heads, width), (batch, length, heads), (heads,), *[(batch, length, states)] * 2
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    sizes = (batch, length, heads, width, states)
    both = ssd_work(*sizes) + ssd_work(*sizes, backward=True)
    assert multiply_adds(lambda: ssd(*inputs).sum().backward()) == both
    earlier, state = batch * length * (length + 1) // 2 * (12 + 5), batch * length * 2 * 12 * 5
    assert ssd_work(*sizes) == min(earlier, state) == (earlier if length == 6 else state)


def test_the_floor_is_the_longer_of_computing_and_moving() -> None:
    a, b = torch.randn(100, 100), torch.randn(100, 100)
    computed = floor_of(MACHINE, lambda: a @ b, numbers=1000)
    moved = floor_of(MACHINE, lambda: a @ b, numbers=2_000_000)
    if torch.cuda.is_available():
        assert computed is moved is None
    else:
        assert (computed, moved) == (1.0, 2.0)  # 10^6 multiply-adds; 8 MB
    assert floors(MACHINE, (10**6, 10**6), (1000, 3_000_000)) == pytest.approx({FORWARD: 1.0, TRAINING: 3.001})
    assert floors(MACHINE | {"multiply_adds_per_s": None}, (1, 1), (1, 1)) == {FORWARD: None, TRAINING: None}


def test_a_layer_moves_its_weights_and_activations() -> None:
    moved = layer_moves(parameters=10, activations=100)
    assert moved == {FORWARD: 210, TRAINING: 210 + 20 + 300}
