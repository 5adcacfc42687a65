"""The Triton kernels without a GPU: in Triton's interpreter against the definition, and compiled for a Hopper."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
REPOSITORY = Path(__file__).parents[2]

INTERPRET = """
import torch
from lightning_modules.kernels import available
from lightning_modules.kernels.triton import selective_scan as launcher
from tests.kernels.problems import relative_errors, run_scan, small_scan

assert available()["selective_scan"]["triton"] is None
launcher.CHUNK, launcher.BLOCK = 4, 4
order = torch.stack([torch.randperm(18, generator=torch.Generator().manual_seed(k)) for k in range(2)]).int()
cases = [
    (1, small_scan(1, 2, 5, 5, 3), {"directions": ("forward", "reverse")}),
    (99, small_scan(1, 2, 18, 3, 2), {"order": order, "merge": "stack"}),
    (99, {n: t for n, t in small_scan(1, 1, 17, 3, 2).items() if n in ("u", "delta", "A", "B", "C")}, {}),
    # Steps so short that 1 + exp(delta) has few of their digits.
    (1, {n: t - 9 * (n == "delta") for n, t in small_scan(1, 1, 5, 3, 2).items() if n in ("u", "delta", "A", "B", "C")},
     {}),
]
for programs, tensors, options in cases:
    launcher.WANTED_PROGRAMS = programs
    exact = run_scan(tensors, options, "reference", torch.float64)
    errors = relative_errors(run_scan(tensors, options, "triton"), exact)
    assert max(errors.values()) < 5e-6, (programs, errors)
    print("agrees")
"""

INTERPRET_CONVOLUTION = """
import itertools
import torch
from lightning_modules.kernels import available, backends_used, depthwise_conv1d
from lightning_modules.kernels.triton import depthwise_conv as launcher
from tests.kernels.test_depthwise_conv import run_conv

assert available()["depthwise_conv1d"]["triton"] is None
launcher.POSITIONS, launcher.BLOCK = 4, 4
generator = torch.Generator().manual_seed(0)
cases = itertools.product(("same", "causal", "anticausal"), ("silu", None), (False, True))
for (padding, activation, bias), length in zip(cases, itertools.cycle((1, 4, 9)), strict=False):
    shapes = [(2, length, 5), (5, 3), (5,)][: 3 if bias else 2]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    options = {"padding": padding, "activation": activation}
    exact = run_conv(tensors, "reference", torch.float64, **options)
    for value, target in zip(run_conv(tensors, "triton", torch.float32, **options), exact, strict=True):
        assert (value.double() - target).abs().max() <= 3e-6 * target.abs().max(), (options, bias, length)
    print("agrees")
x = torch.randn(9, 2, 12, generator=generator).transpose(0, 1)[..., 3:8]  # channels contiguous, the rest not
weight = torch.randn(5, 4, generator=generator)
x[0, 6, 1] = torch.nan
ours, exact = (depthwise_conv1d(x, weight, padding="causal", backend=name) for name in ("triton", "reference"))
torch.testing.assert_close(ours, exact, equal_nan=True)
assert backends_used()["depthwise_conv1d"] == "reference+triton"
print("agrees")
"""

COMPILE = """
import inspect
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lightning_modules.kernels.triton import conv_kernels, scan_kernels

constants = {"SEGMENT": 128, "CHUNK": 32, "BLOCK": 32, "STATES": 16, "SOFTPLUS": True, "SAVE": True}
constants |= {"POSITIONS": 32, "PAD_LEFT": 1, "TAPS": 3, "BIAS": True, "SILU": True}
integers = {"directions", "length", "channels", "states", "chunks"}
halves = {"u", "delta", "B", "C", "x"}
scans = ("summarise_segments", "scan_forward", "summarise_gradients", "scan_backward")
convolutions = ("conv_forward", "conv_backward")
kernels = [getattr(scan_kernels, name) for name in scans] + [getattr(conv_kernels, name) for name in convolutions]
for kernel in kernels:
    signature, constexprs = {}, {}
    for argument in inspect.signature(kernel.fn).parameters:
        if argument in constants:
            signature[argument], constexprs[argument] = "constexpr", constants[argument]
        elif argument in integers or argument.rsplit("_")[-1] in ("batch", "direction", "position"):
            signature[argument] = "i32"
        else:
            signature[argument] = "*i32" if argument == "order" else "*bf16" if argument in halves else "*fp32"
    source = ASTSource(kernel, signature, constexprs)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
    assert compiled.asm["cubin"], kernel
    print("compiled")
"""


def run(script: str, **environment: str) -> list[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def test_the_interpreter_agrees_with_the_definition() -> None:
    """One segment and many, orders and directions, every gradient."""
    assert run(INTERPRET, TRITON_INTERPRET="1") == ["agrees"] * 4


def test_the_interpreted_convolution_agrees_with_the_definition() -> None:
    """Every padding, with and without bias and activation; strided input; NaN stays where it belongs."""
    assert run(INTERPRET_CONVOLUTION, TRITON_INTERPRET="1") == ["agrees"] * 13


def test_every_kernel_compiles_for_hopper(tmp_path: Path) -> None:
    assert run(COMPILE, TRITON_CACHE_DIR=str(tmp_path)) == ["compiled"] * 6
