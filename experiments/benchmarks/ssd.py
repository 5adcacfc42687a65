"""`ablate bench ssd`: state space duality, the core of AiM's Mamba-2, by its back ends.

Shapes: B batch, L positions, H heads, P channels of a head, N states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from experiments.benchmarks.bench import Bench
from experiments.benchmarks.measure import machine
from experiments.benchmarks.problem import FLOAT32, competing, phases, relative_errors, verify
from experiments.benchmarks.work import NOTE, floors_of_products, ssd_work
from lightning_modules import backends as names
from lightning_modules.kernels import reset_backends_used, ssd
from lightning_modules.kernels.dispatch import BACKENDS

SHAPES = ((8, 257, 24, 64, 128), (1, 1025, 24, 64, 128), (64, 64, 4, 64, 32))
"""AiM-B at 256 pixels, and at 512, and AiM of the demo scale."""
CHECKED = (2, 65, 3, 8, 16)
"""Shape of the check against the definition."""
ROUNDED = {"output": 1e-2, "gradients": 5e-2}
"""Largest errors of a package that rounds factors to TensorFloat-32, of ten digits, whatever the process allows. All
are timed where that is allowed, as in training."""


def duality(
    shapes: Sequence[tuple[int, int, int, int, int]] = SHAPES,
    seconds: float = 6.0,
    backends: Sequence[str] = ("cpp", "mamba_ssm", "torch"),
) -> Bench:
    """shapes: (B, L, H, P, N) each, float32. seconds: time spent per shape and phase. backends: to compare."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = competing(names.SSD, backends, device)
    contenders = {name: _contender(name) for name in ours}
    title = "State space duality, float32"
    bench = Bench("ssd", title, baseline=ours[0], machine=machine(torch.get_num_threads()))
    wrong = set()
    for name, call in contenders.items():
        rounds = names.SSD in BACKENDS[name].rounds
        errors = relative_errors({name: call}, _contender("reference"), _inputs(CHECKED, device), exact=not rounds)
        wrong |= verify(bench, errors, ROUNDED if rounds else FLOAT32, optional=ours[1:])
    contenders = {name: call for name, call in contenders.items() if name not in wrong}
    reset_backends_used()
    bench.notes.append(NOTE)
    for shape in shapes:
        batch, length, heads, width, states = shape
        work = (ssd_work(*shape), ssd_work(*shape, backward=True))
        channels, shared = math.prod(shape[:4]), batch * length * (2 * states + heads)
        # x and y, dt, B, C; then x, dy, dx, and dt, B, C with their gradients.
        moves = (2 * channels + shared, 3 * channels + 2 * shared)
        limits = floors_of_products(bench.machine, work, moves)
        case = f"B={batch} L={length} H={heads} P={width} N={states}"
        phases(bench, case, contenders, _inputs(shape, device), [*contenders], limits, seconds)
    return bench


def _contender(backend: str) -> Callable[..., Tensor]:
    def call(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        return ssd(x, delta, A, B, C, D, backend=backend)

    return call


def _inputs(shape: tuple[int, int, int, int, int], device: str) -> list[Tensor]:
    """x, delta, A, B, C, D, as a freshly initialised Mamba-2 has them."""
    batch, length, heads, width, states = shape
    generator = torch.Generator().manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    step = torch.exp(torch.rand(heads, generator=generator) * 4.6 - 6.9)  # 1e-3 to 1e-1
    delta = normal(batch, length, heads) * 0.5 + step + torch.log(-torch.expm1(-step))
    A = -1 - 15 * torch.rand(heads, generator=generator)
    tensors = (
        normal(batch, length, heads, width),
        delta,
        A,
        normal(batch, length, states),
        normal(batch, length, states),
    )
    return [t.to(device) for t in (*tensors, torch.ones(heads))]
