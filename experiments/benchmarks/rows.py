"""`ablate bench rows`: norms, residual branches with dropout, and SwiGLU's activation against PyTorch's own functions.

Shapes: B batch, L positions, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.benchmarks.bench import Bench
from experiments.benchmarks.measure import machine
from experiments.benchmarks.problem import competing, phases, relative_errors, verify
from experiments.benchmarks.work import NOTE, floors
from lightning_modules.backends import RMS_NORM
from lightning_modules.kernels import reset_backends_used, residual, rms_norm, swiglu

SHAPES = ((32, 257, 768), (8, 1025, 768))
"""Residual streams of AiM-B at 256 pixels, and at 512; beyond all caches, since the floor's bytes come from memory."""
DROPOUT = 0.1
EPS = 1e-5


class Operation(NamedTuple):
    """One of them, as a generator calls it."""

    call: Callable[..., Tensor]
    """Its tensors, `backend` and `dropout` -> output."""
    tensors: tuple[str, ...]
    """Letters of each tensor's shape."""
    work: tuple[int, int]
    """Vector instructions an element of the output, forward and what backward adds."""
    moves: tuple[int, int]
    """Numbers read or written an element of the output, likewise."""


def _modulated(x: Tensor, weight: Tensor, shift: Tensor, scale: Tensor, *, backend: str, dropout: float) -> Tensor:
    return rms_norm(x, weight, eps=EPS, shift=shift, scale=scale, backend=backend)


def _gated(x: Tensor, gate: Tensor, weight: Tensor, *, backend: str, dropout: float) -> Tensor:
    return rms_norm(x, weight, eps=EPS, gate=gate, backend=backend)


def _branch(x: Tensor, h: Tensor, gate: Tensor, *, backend: str, dropout: float) -> Tensor:
    return residual(x, h, gate=gate, dropout=dropout, backend=backend)


def _swiglu(gate_up: Tensor, *, backend: str, dropout: float) -> Tensor:
    return swiglu(gate_up, backend=backend)


# Work: a square and the sum of squares 1, the factors 2, the shift 1; a sigmoid 8, its slope 3; dropout's two scrambles
# of 7 instructions, its threshold and factor. The backward does that part again, then three products and two sums.
OPERATIONS = {
    "RMSNorm, modulated": Operation(_modulated, ("BLC", "C", "BC", "BC"), (4, 8), (2, 3)),
    "RMSNorm of a gated input": Operation(_gated, ("BLC", "BLC", "C"), (14, 22), (3, 5)),
    "residual branch, gate, dropout": Operation(_branch, ("BLC", "BLC", "BC"), (19, 19), (3, 3)),
    "SwiGLU": Operation(_swiglu, ("BLD",), (10, 15), (3, 5)),
}


def rows(
    shapes: Sequence[tuple[int, int, int]] = SHAPES, seconds: float = 3.0, backends: Sequence[str] = ("cpp", "torch")
) -> Bench:
    """shapes: (B, L, C) each, float32. seconds: time spent per operation, shape and phase. backends: to compare."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = competing(RMS_NORM, backends, device)
    title = f"Norms, residual branches and SwiGLU, dropout {DROPOUT}, float32"
    bench = Bench("rows", title, baseline=ours[0], machine=machine(torch.get_num_threads()))
    bench.notes.append(f"{NOTE}; torch: PyTorch's own functions; dropout is checked without drawing")
    for name, operation in OPERATIONS.items():
        small = _inputs(operation, (2, 33, 24), device)
        definition = _contender(operation, "reference", 0.0)
        errors = relative_errors({n: _contender(operation, n, 0.0) for n in ours}, definition, small)
        verify(bench, {f"{name}, {what}": error for what, error in errors.items()})
    reset_backends_used()
    for batch, length, channels in shapes:
        for name, operation in OPERATIONS.items():
            count = batch * length * channels
            (forward, backward), (read, read_back) = operation.work, operation.moves
            limits = floors(bench.machine, (count * forward, count * backward), (count * read, count * read_back))
            contenders = {n: _contender(operation, n, DROPOUT) for n in ours}
            case = f"{name}, B={batch} L={length} C={channels}"
            inputs = _inputs(operation, (batch, length, channels), device)
            phases(bench, case, contenders, inputs, ours, limits, seconds)
    return bench


def _contender(operation: Operation, backend: str, dropout: float) -> Callable[..., Tensor]:
    return lambda *tensors: operation.call(*tensors, backend=backend, dropout=dropout)


def _inputs(operation: Operation, shape: tuple[int, int, int], device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = dict(zip("BLC", shape, strict=True)) | {"D": 2 * shape[2]}
    shapes = ([sizes[letter] for letter in letters] for letters in operation.tensors)
    return [torch.randn(s, generator=generator).to(device) for s in shapes]
