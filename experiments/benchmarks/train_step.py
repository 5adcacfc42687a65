"""`ablate bench train-step`: a training step of each preset in float32, and in bfloat16 where the device has it.

Notes tell which operations take the time. The floor is the step's multiply-adds (forward, and twice that backward) at
the rate measured in the same run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks.bench import Bench
from experiments.benchmarks.cells.training import TrainingCell
from experiments.benchmarks.measure import floor_ms, interleave, machine
from experiments.config import load_config
from lightning_modules.precision import computes_bfloat16

BASELINE = "fp32"
SHOWN = 8
"""Operations that a note names."""


def train_step(
    presets: Sequence[str] = ("maskmamba/demo",), batch: int = 64, seconds: float = 8.0, overrides: Any = None
) -> Bench:
    """seconds: time spent per preset. overrides: of every preset, by key. Data and weights are random."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    title = f"A training step of {batch} samples, without loading and logging"
    bench = Bench("train-step", title, baseline=BASELINE, machine=machine(torch.get_num_threads()))
    bench.notes.append("floor: multiply-adds of forward and backward at the measured rate, for float32")
    precisions = [BASELINE, *(["bf16"] if computes_bfloat16(device.type) else [])]
    if len(precisions) == 1:
        bench.notes.append(f"bf16 left out: this {device.type} device does not compute in bfloat16")
    for preset in presets:
        cells = {}
        for precision in precisions:
            timed = {"benchmark.name": "training", "benchmark.batch_size": str(batch), "trainer.precision": precision}
            cells[precision] = TrainingCell(load_config(preset, {**(overrides or {}), **timed}), device)
        with FlopCounterMode(display=False) as counter:
            cells[BASELINE].step()
        floor = floor_ms(bench.machine, multiply_adds=counter.get_total_flops() // 2, bytes_moved=0)
        calls = {name: cell.step for name, cell in cells.items()}
        # On a GPU tensor cores multiply, at another rate than the one that was measured.
        floors = {} if floor is None or device.type == "cuda" else {BASELINE: floor}
        bench.rows += interleave(preset, "step", calls, baseline=BASELINE, seconds=seconds, floors_ms=floors)
        bench.notes += [f"{preset}, {name}: {_split(cell)}" for name, cell in cells.items()]
    return bench


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
