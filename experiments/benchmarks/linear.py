"""`ablate bench linear`: the products of linear maps, in float32, by the libraries that come with PyTorch.

Shapes: M rows (positions of all samples), I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from experiments.benchmarks.bench import Bench
from experiments.benchmarks.measure import machine
from experiments.benchmarks.problem import competing, phases, relative_errors, verify
from experiments.benchmarks.work import NOTE, floors_of_products
from lightning_modules.backends import LINEAR
from lightning_modules.kernels import linear as product
from lightning_modules.kernels import onednn, reset_backends_used

SHAPES = ((4096, 128, 512), (2056, 768, 3072), (128, 768, 3072), (2, 768, 3072))
"""Feed-forward layers: of the demo scale, and of width 768 with 8 images of 257 tokens, with 128 tokens, with 2."""


def linear(
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
    seconds: float = 4.0,
    backends: Sequence[str] = ("onednn", "torch"),
) -> Bench:
    """shapes: (M, I, O) each. seconds: time spent per shape and phase. backends: to compare."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    contenders = {name: _contender(name) for name in competing(LINEAR, backends, device)}
    first = next(iter(contenders))
    bench = Bench("linear", "Linear maps, float32", baseline=first, machine=machine(torch.get_num_threads()))
    errors = relative_errors(contenders, _contender("reference"), _inputs(33, 24, 40, device))
    wrong = verify(bench, errors, optional=[*contenders][1:])
    contenders = {name: call for name, call in contenders.items() if name not in wrong}
    reset_backends_used()
    bench.notes.append(f"{NOTE}; torch: what PyTorch takes by itself")
    if "onednn" in contenders:
        taken = f"from {onednn.SMALLEST:,} multiply-adds on" if onednn.gains() else "only where it is named"
        bench.notes.append(f"onednn is taken {taken} on this processor")
    for rows, inputs, outputs in shapes:
        work, read, written = rows * inputs * outputs, (rows + outputs) * inputs, rows * outputs
        numbers = (read + written, written + 2 * read)
        limits = floors_of_products(bench.machine, (work, 2 * work), numbers)
        tensors = _inputs(rows, inputs, outputs, device)
        case = f"M={rows} I={inputs} O={outputs}"
        phases(bench, case, contenders, tensors, [*contenders], limits, seconds)
    return bench


def _contender(backend: str) -> Callable[..., Tensor]:
    return lambda x, weight, bias: product(x, weight, bias, backend=backend)


def _inputs(rows: int, inputs: int, outputs: int, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, inputs), (outputs, inputs), (outputs,))
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]
