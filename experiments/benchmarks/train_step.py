"""`ablate bench train-step`: a training step of each preset in float32, and in bfloat16 where the device has it.

Notes tell which operations take the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from experiments.benchmarks.bench import Bench
from experiments.benchmarks.cells.training import TrainingCell
from experiments.benchmarks.measure import interleave, machine
from experiments.benchmarks.problem import forced, verify
from experiments.benchmarks.work import NOTE, floor_of
from experiments.config import load_config
from experiments.errors import UserError
from lightning_modules.kernels import reset_backends_used
from lightning_modules.precision import computes_bfloat16, exact_float32

BASELINE = "fp32"
TOLERANCES = {"gradients": 2e-5}
"""Of a whole network in float32, both sides rounded."""
LEAST = 1e-3
"""Gradients below this share of the largest one are compared with that share of it."""
MOST_PARAMETERS = 50_000_000
"""Beyond, the definition would hold gigabytes of states."""
UPDATE_MOVES = 3 + 7
"""Numbers moved per parameter: read forward and backward, gradient written; AdamW reads weight, gradient and moments,
and writes all but the gradient."""
READ = ("generator", "objective", "optim", "tokenizer", "data", "trainer.compile", "trainer.ema_decay")
"""Sections and keys that change a training step."""
SHOWN = 8
"""Operations that a note names."""


def train_step(
    presets: Sequence[str] = ("maskmamba/demo",),
    batch: int = 64,
    seconds: float = 8.0,
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> Bench:
    """seconds: time spent per preset. overrides: of every preset, by key. Data and weights are random."""
    _check(presets, overrides)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    title = f"A training step of {batch} samples, without loading and logging"
    bench = Bench("train-step", title, baseline=BASELINE, machine=machine(torch.get_num_threads()))
    bench.notes.append(f"{NOTE}, of a step in float32")
    precisions = [BASELINE, *(["bf16"] if computes_bfloat16(device.type) else [])]
    if len(precisions) == 1:
        bench.notes.append(f"bf16 left out: this {device.type} device does not compute in bfloat16")
    for preset in presets:
        error = _gradient_error(preset, overrides, device)
        if error is None:
            bench.notes.append(f"{preset}: gradients were not compared, the definition needs too much memory")
        else:
            verify(bench, {f"{preset}, gradients": error}, TOLERANCES)
    reset_backends_used()
    for preset in presets:
        cells = {}
        for precision in precisions:
            timed = {"benchmark.name": "training", "benchmark.batch_size": str(batch), "trainer.precision": precision}
            cells[precision] = TrainingCell(load_config(preset, {**overrides, **timed}), device)
        floor = floor_of(bench.machine, cells[BASELINE].step, numbers=UPDATE_MOVES * cells[BASELINE].parameters)
        calls = {name: cell.step for name, cell in cells.items()}
        bench.rows += interleave(preset, "step", calls, baseline=BASELINE, seconds=seconds, floors_ms={BASELINE: floor})
        bench.notes += [f"{preset}, {name}: {_split(cell)}" for name, cell in cells.items()]
    return bench


def _check(presets: Sequence[str], overrides: Mapping[str, Any]) -> None:
    """Raise UserError for a preset that cannot be measured, and for a key that changes nothing here."""
    for preset in presets:
        if load_config(preset, {**overrides, "benchmark.name": "training"}).trains_tokenizer:
            raise UserError(f"The benchmark trains generators, and {preset} trains a tokenizer.")
    for key in overrides:
        if not any(f"{key}.".startswith(f"{name}.") for name in READ):
            raise UserError(
                f"{key} changes nothing in this benchmark, which reads {', '.join(READ)} and measures every precision "
                "that the device has; batch= is the batch size, and ABLATE_KERNELS names back ends."
            )


def _gradient_error(preset: str, overrides: Mapping[str, Any], device: torch.device) -> float | None:
    """Largest error of a float32 step's gradients against those of the reference kernels, the definition, over a
    parameter's largest gradient, without dropout; None for networks beyond `MOST_PARAMETERS`."""
    few = {"benchmark.name": "training", "benchmark.batch_size": "2", "trainer.precision": "fp32"}
    config = load_config(preset, {**overrides, **few})
    if hasattr(config.generator, "dropout"):
        config.generator.dropout = 0.0  # back ends draw masks of their own
    cell = TrainingCell(config, device)
    if cell.parameters > MOST_PARAMETERS:
        return None
    weights = cell.weights()
    for weight in weights:  # none may be zero, behind which others would have no gradient
        if not weight.any():
            nn.init.normal_(weight, std=0.02)
    with exact_float32(device):
        own, true = (_gradients(cell, weights, kernels) for kernels in ("", "reference"))
    least = LEAST * max(
        gradient.abs().max() for gradient in true
    )  # rounding alone, such as a key's bias, is no gradient
    errors = [(a - b).abs().max() / b.abs().max().clamp(min=least) for a, b in zip(own, true, strict=True)]
    return torch.stack(errors).max().item()


def _gradients(cell: TrainingCell, weights: Sequence[nn.Parameter], kernels: str) -> list[Tensor]:
    torch.manual_seed(0)
    with forced(kernels):
        found = torch.autograd.grad(cell.loss(), weights, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


def _split(cell: TrainingCell) -> str:
    """The share of each operation in the time of one step, the largest first."""
    gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as watched:
        cell.step()
    times: Counter[str] = Counter()
    for event in watched.key_averages():
        if event.device_type != DeviceType.CPU:  # a kernel: its time stands with the operation that launched it
            continue
        times[event.key] += event.self_device_time_total if gpu else event.self_cpu_time_total
    total = sum(times.values()) or 1
    shares = [f"{name.removeprefix('aten::')} {time / total:.0%}" for name, time in times.most_common(SHOWN)]
    return ", ".join(shares)
