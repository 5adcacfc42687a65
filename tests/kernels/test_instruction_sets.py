"""The C++ kernels for processors other than this one: the plain path of four lanes, and AVX-512 by emulation."""

import ctypes
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_modules.kernels.cpp import library
from tests.kernels import test_depthwise_conv as convolutions
from tests.kernels import test_mamba2_decode as mamba2_decoding
from tests.kernels import test_rows as rows
from tests.kernels import test_selective_scan as scans
from tests.kernels import test_ssd as dualities
from tests.kernels import test_state_update as updates
from tests.kernels import test_transformer_decode as transformer_decoding
from tests.kernels.problems import relative_errors, run_scan, small_scan

EMULATION = Path(__file__).with_name("emulated_avx512.h")
TARGETS = {"SSE2": (4, []), "AVX-512": (16, ["-include", str(EMULATION)])}

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets of x86"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine"),
]


@pytest.fixture(scope="module", params=TARGETS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    lanes, flags = TARGETS[request.param]
    folder = tmp_path_factory.mktemp("kernels")
    # Unoptimised, which compiles in seconds; without machine.cpp, whose assembler no emulation reaches.
    # And without symbols that a process has once only: these libraries' constants must not become one another's.
    command = ["g++", "-O0", "-std=c++17", "-fPIC", "-fopenmp", "-fno-gnu-unique", "-march=x86-64", "-Wno-psabi"]
    command += flags
    sources = [path for path in library.SOURCES.glob("*.cpp") if path.stem != "machine"]
    objects = [folder / f"{source.stem}.o" for source in sources]
    jobs = [
        subprocess.Popen([*command, "-c", source, "-o", to], stderr=subprocess.PIPE, text=True)
        for source, to in zip(sources, objects, strict=True)
    ]
    for job in jobs:
        _, errors = job.communicate(timeout=300)
        assert job.returncode == 0, errors
    subprocess.run([*command, "-shared", *objects, "-o", folder / "kernels.so"], check=True, timeout=60)
    kernels = ctypes.CDLL(str(folder / "kernels.so"))
    assert kernels.simd_lanes() == lanes
    return kernels


@pytest.fixture(autouse=True)
def instead_of_this_processors(built: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "load", lambda: built)


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("sizes", [(2, 2, 33, 17, 5), (1, 1, 65, 40, 16), (1, 3, 1, 1, 1)])
def test_scans_match_the_definition(sizes: tuple[int, ...], scale: float) -> None:
    tensors = small_scan(*sizes)
    tensors["delta"] *= scale
    errors = relative_errors(run_scan(tensors, {}, "cpp"), run_scan(tensors, {}, "reference", torch.float64))
    assert max(errors.values()) < scans.TOLERANCE, errors


@pytest.mark.parametrize("sizes", [(2, 33, 17, 3), (1, 70, 150, 4), (3, 1, 1, 9)])
def test_convolutions_match_the_definition(sizes: tuple[int, ...]) -> None:
    batch, length, channels, taps = sizes
    tensors = [torch.randn(shape) for shape in ((batch, length, channels), (channels, taps), (channels,))]
    exact = convolutions.run_conv(tensors, "reference", torch.float64, padding="causal")
    for value, target in zip(
        convolutions.run_conv(tensors, "cpp", torch.float32, padding="causal"), exact, strict=True
    ):
        torch.testing.assert_close(value.double(), target, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(2, 9, 40), (1, 33, 3)])
def test_rows_match_the_definition(sizes: tuple[int, ...]) -> None:
    rows.check(rows.rms_norm, rows.norm_problem(*sizes), eps=rows.EPS)
    rows.check(rows.residual, rows.residual_problem(*sizes))
    rows.check(rows.swiglu, {"gate_up": torch.randn(*sizes[:2], 2 * sizes[2])})


@pytest.mark.parametrize(
    ("test", "arguments"),
    [
        (scans.test_bfloat16_is_the_float32_scan_rounded_at_the_ends, ("cpp", "sum")),
        (scans.test_growing_states_agree_too, ("cpp",)),
        *((scans.test_nan_reaches_the_output_and_the_gradients, ("cpp", name)) for name in ("delta", "A", "z")),
        *(
            (scans.test_decays_are_exact_from_none_to_the_least_and_largest_numbers, (sign, most))
            for sign in (-1.0, 1.0)
            for most in (1.0, 120.0)
        ),
        (convolutions.test_bfloat16_in_bfloat16_out, ("cpp",)),
        (convolutions.test_strides_and_nan, ("cpp",)),
        *(
            (dualities.check, (sizes, "cpp", "forward"))
            for sizes in ((2, 9, 3, 4, 5), (1, 70, 2, 17, 1), (1, 130, 2, 4, 8))
        ),
        *(
            (dualities.test_what_is_not_finite_stays_out_of_positions_before, (name, torch.inf, "forward", "cpp"))
            for name in ("x", "delta")
        ),
        (rows.test_dropout_drops_its_share_and_keeps_the_mean, (0.1,)),
        *((rows.test_bfloat16_is_float32_rounded_at_the_ends, (name,)) for name in rows.CALLS),
        (updates.test_steps_make_up_the_causal_convolution, ("cpp", torch.bfloat16, 4)),
        (updates.test_bfloat16_inputs_keep_a_float32_state, ("cpp",)),
    ],
    ids=lambda value: value.__name__ if callable(value) else "-".join(map(str, value)),
)
def test_what_this_processors_kernels_pass(test: Callable[..., None], arguments: tuple) -> None:
    test(*arguments)


def test_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    mamba2_decoding.test_equal_to_the_layers_one_by_one("odd", 3, monkeypatch)
    mamba2_decoding.test_in_bfloat16("even", monkeypatch)
    for size in ("even", "odd"):
        transformer_decoding.test_equal_to_the_layers_one_by_one(size, 3, monkeypatch)
        transformer_decoding.test_in_bfloat16(size, monkeypatch)
