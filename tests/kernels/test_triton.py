"""The Triton kernels without a GPU: in Triton's interpreter against the definition, and compiled for a Hopper."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
REPOSITORY = Path(__file__).parents[2]

# What every launch is given besides its tensors, and whether their GPU is made the current one for it.
WATCH = """
import torch
from triton.runtime.interpreter import InterpretedFunction

launches, chosen, placed = [], [], []
run = InterpretedFunction.run


class DeviceOf(torch.cuda.device_of):
    def __enter__(self):
        chosen.append(self)

    def __exit__(self, *error):
        chosen.pop()


def watched(kernel, *given, **named):
    launches.append(named)
    placed.append(len(chosen))
    return run(kernel, *given, **named)


InterpretedFunction.run, torch.cuda.device_of = watched, DeviceOf
"""
INTERPRET = """
import torch
from lightning_modules.kernels import available
from lightning_modules.kernels.triton import selective_scan as launcher
from tests.kernels.problems import relative_errors, run_scan, small_scan

assert available()["selective_scan"]["triton"] is None
launcher.CHUNK, launcher.TILE_SIZE, launcher.LEAST_CHUNKS = 4, 8, 1
order = torch.stack([torch.randperm(10, generator=torch.Generator().manual_seed(k)) for k in range(2)]).int()
bare = ("u", "delta", "A", "B", "C")


def several(length, channels, states):
    # Three directions, an input of their own for each, and a gate and a C that are parts of wider tensors.
    tensors = small_scan(1, 3, length, channels, states)
    wide = torch.randn(1, length, 3 * channels, generator=torch.Generator().manual_seed(2))
    tensors["u"] = torch.stack([tensors["u"], 2 * tensors["u"], -tensors["u"]], 1)
    tensors["z"] = wide[..., channels : 2 * channels]
    tensors["C"] = torch.cat([tensors["C"], tensors["B"]], -1)[..., :states]
    return tensors


cases = [
    (1, small_scan(1, 2, 5, 5, 3), {"directions": ("forward", "reverse")}),
    (99, small_scan(1, 2, 10, 3, 2), {"order": order, "merge": "stack"}),
    (99, {n: t for n, t in small_scan(1, 1, 9, 3, 2).items() if n in bare}, {}),
    # Steps so short that 1 + exp(delta) has few of their digits.
    (1, {n: t - 9 * (n == "delta") for n, t in small_scan(1, 1, 5, 3, 2).items() if n in bare}, {}),
    (99, several(9, 5, 2), {"directions": ("reverse", "forward", "reverse")}),
    (99, several(6, 3, 1), {"directions": ("reverse", "forward", "reverse"), "merge": "stack"}),
]
cut = []
launch_of = launcher.Launch.of
launcher.Launch.of = staticmethod(lambda inputs: cut.append(launch_of(inputs)) or cut[-1])
for programs, tensors, options in cases:
    launcher.WANTED_PROGRAMS = programs
    exact = run_scan(tensors, options, "reference", torch.float64)
    errors = relative_errors(run_scan(tensors, options, "triton"), exact)
    assert max(errors.values()) < 5e-6, (programs, errors)
    print("agrees")
assert {launch.segments for launch in cut} == {1, 2, 3} and {launch.blocks for launch in cut} >= {1, 2, 3}
launcher.MOST_FLAGS = 2  # three directions run by a table of positions
tensors = several(6, 3, 2)
exact = run_scan(tensors, options, "reference", torch.float64)
assert max(relative_errors(run_scan(tensors, options, "triton"), exact).values()) < 5e-6
print("agrees")
halves = {name: tensor.bfloat16().float() for name, tensor in tensors.items()}
exact = run_scan(halves, options, "reference", torch.float64)
rounded = run_scan(halves, options, "triton", torch.bfloat16)
assert rounded["y"].dtype == rounded["u"].dtype == rounded["z"].dtype == torch.bfloat16
assert max(relative_errors({name: t.float() for name, t in rounded.items()}, exact).values()) < 2**-6
print("agrees")
"""

INTERPRET_CONVOLUTION = """
import itertools
import torch
from lightning_modules.kernels import available, backends_used, depthwise_conv1d
from lightning_modules.kernels.triton import depthwise_conv as launcher
from tests.kernels.test_depthwise_conv import run_conv

assert available()["depthwise_conv1d"]["triton"] is None
launcher.POSITIONS, launcher.POSITIONS_BACKWARD, launcher.BLOCK = 4, 2, 4
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

FUSED = """
assert launches and all(named["enable_fp_fusion"] for named in launches)
assert set(placed) == {1}, "launched on whatever GPU is the current one"
print("fused")
"""
COMPILE = r"""
import inspect
import itertools
import os
import re
import subprocess
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lightning_modules.kernels.triton import conv_kernels, gate_kernels, scan_kernels
from lightning_modules.kernels.triton.availability import FUSED
from lightning_modules.kernels.triton.selective_scan import MOST_CHANNELS, TILE_SIZE

shared = {"SEGMENT": 128, "CHUNK": 32, "BLOCK": 32, "STATES": 16, "SOFTPLUS": True, "BACKWARDS": True}
shared |= {"STACK": False, "POSITIONS": 8, "PAD_LEFT": 1, "TAPS": 3, "BIAS": True, "SILU": True}
integers = {"directions", "length", "channels", "states", "backwards", "segments", "chunks"}
halves = {"u", "delta", "B", "C", "x", "z", "ungated", "grad_z"}
optional = {
    "summarise_segments": {"bias", "order"},
    "chain_segments": {"border"},
    "scan_forward": {"D", "bias", "order", "starts", "checkpoints", "final"},
    "summarise_gradients": {"bias", "order"},
    "scan_backward": {"D", "bias", "order", "carries", "grad_D", "grad_bias", "grad_start"},
    "merge_directions": {"z", "ungated"},
    "gate_backward": set(),
    "conv_forward": set(),
    "conv_backward": set(),
}


def compiled(name, least=False, **others):
    kernel = next(getattr(m, name) for m in (scan_kernels, gate_kernels, conv_kernels) if hasattr(m, name))
    constants = shared | others
    absent = optional[name] if least else set()
    signature, constexprs = {}, {}
    for argument in inspect.signature(kernel.fn).parameters:
        if argument in absent:
            signature[argument], constexprs[argument] = "constexpr", None
        elif argument in constants:
            signature[argument], constexprs[argument] = "constexpr", constants[argument]
        elif least and argument in integers:
            signature[argument], constexprs[argument] = "constexpr", 1
        elif argument in integers or argument.rsplit("_")[-1] in ("batch", "direction", "position"):
            signature[argument] = "i32"
        else:
            signature[argument] = "*i32" if argument == "order" else "*bf16" if argument in halves else "*fp32"
    # What PyTorch allocates begins at such addresses.
    pointers = [place for place, kind in enumerate(signature.values()) if kind.startswith("*")]
    source = ASTSource(kernel, signature, constexprs, {(place,): [["tt.divisibility", 16]] for place in pointers})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1, **FUSED})


def stack_bytes(kernel):
    path = os.path.join(os.environ["TRITON_CACHE_DIR"], "cubin")
    with open(path, "wb") as file:
        file.write(kernel.asm["cubin"])
    tool = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
    usage = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True)
    return int(re.search(r"STACK:(\d+)", usage.stdout + usage.stderr)[1])


if sys.argv[1:] == ["registers"]:
    for states in (1, 16, 64):
        tile = {"STATES": states, "BLOCK": min(MOST_CHANNELS, TILE_SIZE // states)}
        assert stack_bytes(compiled("scan_backward", **tile)) == 0, states
    forward = compiled("scan_forward")
    assert "ex2" in forward.asm["ptx"] and "shfl" not in forward.asm["ptx"]
    print("fits")
    sys.exit()
# With everything that may be given, and with nothing of it and integers of one, of which Triton makes constants.
for name, least in itertools.product(optional, (False, True)):
    assert compiled(name, least).asm["cubin"], name
    print("compiled")
"""


def run(script: str, *words: str, **environment: str) -> list[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
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
    """One segment and many, orders and directions, every gradient; bfloat16."""
    assert run(WATCH + INTERPRET + FUSED, TRITON_INTERPRET="1") == ["agrees"] * 8 + ["fused"]


def test_the_interpreted_convolution_agrees_with_the_definition() -> None:
    """Every padding, with and without bias and activation; strided input; NaN stays where it belongs."""
    assert run(WATCH + INTERPRET_CONVOLUTION + FUSED, TRITON_INTERPRET="1") == ["agrees"] * 13 + ["fused"]


def test_every_kernel_compiles_for_hopper(tmp_path: Path) -> None:
    assert run(COMPILE, TRITON_CACHE_DIR=str(tmp_path)) == ["compiled"] * 18


def test_tiles_stay_in_registers_and_states_of_a_channel_in_one_lane(tmp_path: Path) -> None:
    """A tile too large goes to memory and back in every step, and one that is spread otherwise from lane to lane."""
    assert run(COMPILE, "registers", TRITON_CACHE_DIR=str(tmp_path)) == ["fits"]
