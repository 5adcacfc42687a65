"""`ablate bench scan`: the selective scan against other implementations.

Shapes: B batch, L positions, C channels, N states.
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
from experiments.benchmarks.peers import KEPT, KEPT_NOTE, PEERS, Package, scans
from experiments.benchmarks.problem import OURS, competing, phase_of, phases, relative_errors, verify
from experiments.benchmarks.work import NOTE, floors, scan_work
from lightning_modules.backends import SELECTIVE_SCAN
from lightning_modules.kernels import reset_backends_used, selective_scan

SHAPES = ((8, 768, 257), (2, 1024, 1025), (1, 512, 4097))
STATES = 16
# Activations read or written per channel of a position, in numbers: u, delta, y; then u, delta, dy, du, d delta.
FORWARD_MOVES, BACKWARD_MOVES = 3, 5


def scan(
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
    seconds: float = 12.0,
    backends: Sequence[str] = OURS,
    peers: Sequence[Package] = ("mambapy", "mamba-ssm"),
) -> Bench:
    """shapes: (B, C, L) each, float32, N = 16. seconds: time spent per shape and phase. backends: ours to compare.
    peers: other packages to compare, where they are installed and run on this device; transformers, whose loop over
    positions takes up to minutes for a backward pass here, only if it is named."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = competing(SELECTIVE_SCAN, backends, device)
    others = scans(device, peers)
    contenders = {name: _ours(name) for name in ours} | others
    bench = Bench(
        "scan", "Selective scan, float32, 16 states", baseline=ours[0], machine=machine(torch.get_num_threads())
    )
    small, definition = _inputs(1, 24, 65, device), _ours("reference")
    wrong = verify(bench, relative_errors(contenders, definition, small), optional=[*contenders][1:])
    ours = [name for name in ours if name not in wrong]
    apart_too = [name for name in others if name not in wrong] if device == "cpu" else []
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
            work = (scan_work(positions, STATES), scan_work(positions, STATES, backward=True))
            moves = (positions * FORWARD_MOVES, positions * BACKWARD_MOVES)
            apart = {
                name: (process, partial(_peer_phase, name, (batch, channels, length)))
                for name, process in processes.items()
            }
            case = f"B={batch} C={channels} L={length}"
            phases(bench, case, contenders, inputs, ours, floors(bench.machine, work, moves), seconds, apart)
    return bench


def _peer_phase(peer: str, shape: tuple[int, int, int], phase: str) -> Callable[[], None]:
    return phase_of(phase, scans("cpu", PEERS)[peer], _inputs(*shape, "cpu"))


def _inputs(batch: int, channels: int, length: int, device: str) -> list[Tensor]:
    """u, delta, A, B, C, D, delta_bias as a freshly initialised Mamba has them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    step = torch.exp(torch.rand(channels, generator=generator) * 4.6 - 6.9)  # 1e-3 to 1e-1
    return [
        t.to(device)
        for t in (
            normal(batch, length, channels),
            normal(batch, length, channels) * 0.5,
            -torch.arange(1.0, STATES + 1).repeat(channels, 1),
            normal(batch, length, STATES),
            normal(batch, length, STATES),
            torch.ones(channels),
            step + torch.log(-torch.expm1(-step)),
        )
    ]


def _ours(backend: str) -> Callable[..., Tensor]:
    def call(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
        return selective_scan(u, delta, A, B, C, D, delta_bias=bias, backend=backend)

    return call
