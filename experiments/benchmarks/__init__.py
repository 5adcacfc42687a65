"""Benchmarks without training: ratios of interleaved measurements, the floor, peak memory, an oracle check before all.

Importing this package imports nothing heavy; `run` loads the one benchmark it is asked for.
"""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import unknown

if TYPE_CHECKING:
    from experiments.benchmarks.bench import Bench

# name -> "module:function"; the function takes keyword options and returns a Bench.
BENCHMARKS: dict[str, str] = {
    "scan": "experiments.benchmarks.scan:scan",
    "cross-scan": "experiments.benchmarks.cross_scan:cross_scan",
    "conv": "experiments.benchmarks.conv:conv",
    "layer": "experiments.benchmarks.layer:layer",
    "sampler": "experiments.benchmarks.sampler:sampler",
    "train-step": "experiments.benchmarks.train_step:train_step",
    "plan": "sweeps.bench:plan_bench",
    "loader": "experiments.benchmarks.loader:loader",
    "decode": "experiments.benchmarks.decode:decode",
}


def function_of(name: str) -> Callable[..., Bench]:
    """The function behind benchmark `name`, imported; raises UserError where there is none."""
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    module, _, function_name = BENCHMARKS[name].partition(":")
    return getattr(importlib.import_module(module), function_name)


def run(name: str, root: Path, *, out: Path | None = None, as_json: bool = False, **options: Any) -> Bench:
    """Run benchmark `name` once no other one measures here; write result.json, table.md and figure.png; print a table
    or the JSON.

    Args:
        root: output folder; benchmarks and benchmark cells with the same root wait for each other.
        out: folder of the files; by default root/benchmarks/name.
        options: of the benchmark's function.

    Raises:
        UserError: no such benchmark or option, a contender whose results are wrong, or a folder that cannot be written.
    """
    from experiments.benchmarks.options import check_option, words_of

    function = function_of(name)
    for option in options:
        check_option(function, option)
    import torch

    from experiments.allocator import keep_freed_memory
    from experiments.benchmarks.alone import alone, load_average, signs_of_other_work
    from experiments.benchmarks.figure import draw
    from experiments.benchmarks.table import markdown, show
    from experiments.files import atomic_path, atomic_write_json, atomic_write_text, make_folder
    from lightning_modules.backends import ENVIRONMENT_VARIABLE
    from lightning_modules.kernels import backends_used, reset_backends_used

    out = out or root / "benchmarks" / name
    make_folder(out)
    keep_freed_memory()  # as in a training, and so is
    torch.set_float32_matmul_precision("high")
    try:
        with alone(root):
            load = load_average()
            reset_backends_used()
            bench = function(**options)
    except BaseException:
        with suppress(OSError):  # it holds an earlier result
            out.rmdir()
        raise
    bench.command = shlex.join(["ablate", "bench", name, *words_of(options)])
    forced = os.environ.get(ENVIRONMENT_VARIABLE, "")
    bench.machine |= {"backends": backends_used(), "forced_kernels": forced, "load_before": load}
    baselines = [row for row in bench.rows if row.contender == bench.baseline]
    bench.notes += signs_of_other_work(load, bench.machine["threads"], baselines)
    show(bench, as_json=as_json)  # first: minutes of measuring are not lost to a full disk
    atomic_write_json(out / "result.json", bench.to_dict())
    atomic_write_text(out / "table.md", markdown(bench))
    with atomic_path(out / "figure.png") as path:
        draw(bench, path)
    return bench
