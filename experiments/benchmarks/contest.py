"""Measures benchmark cells side by side in one process, and leaves a result for each.

What slows the machine for a while slows all contenders of a round, so that ratios between them survive it.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from experiments.benchmarks.alone import alone
from experiments.benchmarks.cells.base import BenchmarkCell, Phase
from experiments.benchmarks.config import BENCHMARK_CELLS
from experiments.benchmarks.measure import in_turns, median_interval, peak_memory
from experiments.benchmarks.problem import forced
from experiments.errors import CellError, UserError
from experiments.memory import memory_held
from experiments.process import device_of, prepare_process
from experiments.provenance import provenance
from experiments.run_config import RunConfig
from experiments.store import Benchmark, RunStore
from lightning_modules.kernels import backends_used, reset_backends_used

log = logging.getLogger("ablate")


class _Failed(Exception):
    """A contender failed while it was timed; its `error` says how."""


@dataclass
class Contender:
    """A claimed benchmark on its way to a result."""

    config: RunConfig
    work: Benchmark
    cell: BenchmarkCell | None = None
    peaks: dict[str, int | None] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    backends: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None


def measure(configs: Sequence[RunConfig], wait: bool = True) -> None:
    """Measure what is not measured yet, in turns, each with the kernels that it asks for; a contender that fails leaves
    the others alone.

    Raises:
        UserError: contenders that one process cannot measure fairly.
        CellError: a contender failed; its status says why.
    """
    _check(configs)
    prepare_process(replace(configs[0], runtime=replace(configs[0].runtime, kernels="auto")))
    store = RunStore(configs[0].root)
    works = [(config, store.prepare_benchmark(config)) for config in configs]
    with alone(store.root) as load:
        failed = _claim_all(works, [], wait, load)
    if failed:
        raise CellError("; ".join(f"{contender.work.id}: {contender.error}" for contender in failed))


def _check(configs: Sequence[RunConfig]) -> None:
    if len({config.runtime.threads for config in configs}) > 1:
        raise UserError("Benchmarks that are timed in turns share a process: give them one runtime.threads.")
    chosen = {(config.runtime.kernels, getattr(config.benchmark, "attention", "auto")) for config in configs}
    if any(config.trainer.compile for config in configs) and len(chosen) > 1:
        raise UserError(
            "With trainer.compile=true, benchmarks that are timed in turns share compiled graphs: give them one "
            "runtime.kernels and one benchmark.attention, or leave `in_turns` out."
        )


def _claim_all(
    works: Sequence[tuple[RunConfig, Benchmark]], contenders: list[Contender], wait: bool, load: float | None
) -> list[Contender]:
    """Claim the first, then the rest, measure all in the innermost call; returns those that failed."""
    if not works:
        _measure(contenders, load)
        return []
    (config, work), *rest = works
    failed: list[Contender] = []
    contender = Contender(config, work)
    try:
        with work.claim(wait=wait) as mine:
            failed += _claim_all(rest, [*contenders, contender] if mine else contenders, wait, load)
            if mine and contender.error:
                raise contender.error
    except Exception as error:
        if error is not contender.error:
            raise
        failed.append(contender)
    return failed


def _measure(contenders: list[Contender], load: float | None) -> None:
    started = time.time()
    for device in {device_of(contender.config) for contender in contenders}:
        # What libraries allocate once must not count as the first contender's.
        square = torch.randn(512, 512, device=device, requires_grad=True)
        (square @ square).sum().backward()
    for contender in contenders:
        contender.work.update(phase="warm up")
        _guarded(contender, partial(_build, contender))
    names = dict.fromkeys(name for c in contenders if c.cell for name in c.cell.phases)
    for name in names:
        _time_phase(name, [c for c in contenders if c.cell and not c.error and name in c.cell.phases])
    together = [contender.work.id for contender in contenders]
    for contender in contenders:
        if contender.error is None:
            contender.work.write_result(_result(contender, started, together, load))


def _build(contender: Contender) -> None:
    """Build, and run every phase: first compiled, tuned and allocated, then watched for its peak of memory.

    On a CPU once more from the start: what the first time imports and sets up stays, and must not count as the first
    contender's.
    """
    device = device_of(contender.config)
    target = BENCHMARK_CELLS.target(contender.config.benchmark.name)
    reset_backends_used()
    with _kernels(contender):
        for _ in range(2 if device.type == "cpu" else 1):
            contender.cell = None
            before = memory_held()
            contender.cell = target(contender.config, device)
            for name, phase in contender.cell.phases.items():
                if contender.config.trainer.compile:
                    with torch.compiler.set_stance("force_eager"):  # a graph that another left tells no back ends
                        phase.call()
                phase.call()
                contender.peaks[name] = peak_memory(phase.call, before)
    contender.backends = backends_used()


def _kernels(contender: Contender) -> AbstractContextManager[None]:
    name = contender.config.runtime.kernels
    return forced("" if name == "auto" else name)


def _guarded(contender: Contender, action: Callable[[], Any]) -> None:
    """A failure ends this contender alone; what it held is freed, so that it does not end the others."""
    try:
        action()
    except Exception as error:
        log.exception("%s failed", contender.work.id)
        contender.error, contender.cell = error.with_traceback(None), None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _time_phase(name: str, contenders: list[Contender]) -> None:
    """One that fails here, such as for want of memory beside all others, is left out, and the rest begin again."""
    if not contenders:
        return

    def progress(done: int, most: int) -> None:
        for contender in contenders:
            contender.work.update(phase=name, step=done, max_steps=most)

    def call(contender: Contender) -> None:
        assert contender.cell is not None
        with _kernels(contender):
            _guarded(contender, contender.cell.phases[name].call)
        if contender.error:
            raise _Failed

    seconds = sum(c.config.benchmark.seconds for c in contenders)
    try:
        times = in_turns({c.work.id: partial(call, c) for c in contenders}, seconds, progress)
    except _Failed:
        _time_phase(name, [contender for contender in contenders if not contender.error])
        return
    for contender in contenders:
        contender.seconds[name] = [milliseconds / 1e3 for milliseconds in times[contender.work.id]]
        log.info("%s %s: %.3g s, %d rounds", contender.work.id, name, *_median_and_count(contender.seconds[name]))


def _median_and_count(values: Sequence[float]) -> tuple[float, int]:
    return statistics.median(values), len(values)


def _result(contender: Contender, started: float, together: list[str], load: float | None) -> dict[str, Any]:
    assert contender.cell is not None
    metrics: dict[str, float] = {}
    for name, phase in contender.cell.phases.items():
        metrics |= _metrics(phase, contender.seconds[name], contender.peaks[name])
    return {
        "schema": 1,
        "bench_id": contender.work.id,
        "metrics": metrics,
        "parameters": contender.cell.parameters,
        "seconds": contender.seconds,
        "protocol": {
            "rounds": {name: len(values) for name, values in contender.seconds.items()},
            "in_turns_with": [name for name in together if name != contender.work.id],
            "threads": torch.get_num_threads(),
            "device": device_of(contender.config).type,
            "load_before": load,
        },
        "provenance": provenance(contender.config, contender.backends, started, contender.work.attempts),
    }


def _metrics(phase: Phase, seconds: Sequence[float], peak: int | None) -> dict[str, float]:
    """Median and its interval; the rate; the peak where the system tells it."""
    share = phase.items if phase.per_item else 1
    low, high = median_interval(seconds)
    median = statistics.median(seconds)
    found = {phase.seconds: median / share, f"{phase.seconds}_low": low / share, f"{phase.seconds}_high": high / share}
    if phase.rate:
        found[phase.rate] = phase.items / median
    if peak is not None:
        found[phase.memory] = float(peak)
    return found
