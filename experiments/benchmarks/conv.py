"""`ablate bench conv`: depthwise convolution with SiLU against torch's conv1d.

Shapes: B batch, L positions, C channels, k taps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from experiments.benchmarks.apart import OwnProcess
from experiments.benchmarks.bench import Bench
from experiments.benchmarks.measure import machine
from experiments.benchmarks.peers import KEPT, KEPT_NOTE, causal_convs, torch_conv
from experiments.benchmarks.problem import OURS, competing, phase_of, phases, relative_errors, verify
from experiments.benchmarks.work import NOTE, conv_work, floors
from lightning_modules.backends import DEPTHWISE_CONV1D
from lightning_modules.kernels import depthwise_conv1d, reset_backends_used

# Those of `ablate bench scan`, before which this convolution stands, and one so small that waking threads counts.
SHAPES = ((8, 768, 257), (2, 1024, 1025), (1, 512, 4097), (1, 512, 1024))
TAPS = 4
# Activations read or written per channel of a position, in numbers: x, y; then x, dy, dx.
FORWARD_MOVES, BACKWARD_MOVES = 2, 3
PEER = f"F.conv1d + SiLU (torch {torch.__version__.split('+')[0]})"


def conv(
    shapes: Sequence[tuple[int, int, int]] = SHAPES, seconds: float = 6.0, backends: Sequence[str] = OURS
) -> Bench:
    """shapes: (B, C, L) each, float32, causal, 4 taps. seconds: time spent per shape and phase. backends: ours to
    compare."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = competing(DEPTHWISE_CONV1D, backends, device)
    contenders: dict[str, Callable[..., Tensor]] = {name: _ours(name) for name in ours}
    contenders |= {PEER: _peer} | causal_convs(device)
    title = "Depthwise convolution, 4 causal taps, SiLU, channel-last float32"
    bench = Bench("conv", title, baseline=ours[0], machine=machine(torch.get_num_threads()))
    small, definition = _inputs(2, 24, 33, device), _ours("reference")
    wrong = verify(bench, relative_errors(contenders, definition, small), optional=[*contenders][1:])
    ours = [name for name in ours if name not in wrong]
    apart_too = [PEER] if device == "cpu" and PEER not in wrong else []
    contenders = {name + KEPT * (name in apart_too): call for name, call in contenders.items() if name not in wrong}
    reset_backends_used()
    bench.notes.append(NOTE)
    if apart_too:
        bench.notes.append(KEPT_NOTE)
    with ExitStack() as stack:
        processes = {name: stack.enter_context(OwnProcess(name)) for name in apart_too}
        for batch, channels, length in shapes:
            inputs = _inputs(batch, channels, length, device)
            positions = batch * channels * length
            work = (conv_work(positions, TAPS), conv_work(positions, TAPS, backward=True))
            moves = (positions * FORWARD_MOVES, positions * BACKWARD_MOVES)
            make = partial(_peer_phase, (batch, channels, length))
            apart = {name: (process, make) for name, process in processes.items()}
            case = f"B={batch} C={channels} L={length}"
            phases(bench, case, contenders, inputs, ours, floors(bench.machine, work, moves), seconds, apart)
    return bench


def _peer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch_conv(x, weight, bias, TAPS - 1)


def _peer_phase(shape: tuple[int, int, int], phase: str) -> Callable[[], None]:
    return phase_of(phase, _peer, _inputs(*shape, "cpu"))


def _inputs(batch: int, channels: int, length: int, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, length, channels), (channels, TAPS), (channels,))
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


def _ours(backend: str) -> Callable[..., Tensor]:
    return lambda x, weight, bias: depthwise_conv1d(x, weight, bias, padding="causal", backend=backend)
