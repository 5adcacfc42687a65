"""Benchmarks without training: ratios of interleaved measurements, the floor, peak memory, an oracle check before all.

Importing this package imports nothing heavy; `run` loads the one benchmark it is asked for.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import UserError, unknown

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


def run(name: str, out: Path, *, as_json: bool = False, **options: Any) -> Bench:
    """Run benchmark `name`, write out/result.json, table.md and figure.png, print a table or the JSON.

    Raises:
        UserError: no such benchmark or option, or a folder that cannot be written.
    """
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    module, _, function_name = BENCHMARKS[name].partition(":")
    function = getattr(importlib.import_module(module), function_name)
    valid = inspect.signature(function).parameters
    for option in options:
        if option not in valid:
            raise UserError(f"Benchmark '{name}' has no option '{option}'; it has {', '.join(valid)}.")
    import torch

    from experiments.allocator import keep_freed_memory
    from experiments.benchmarks.figure import draw
    from experiments.benchmarks.table import markdown, show
    from experiments.files import atomic_path, atomic_write_json, atomic_write_text, make_folder

    make_folder(out)
    keep_freed_memory()  # as in a training, and so is
    torch.set_float32_matmul_precision("high")
    bench = function(**options)
    show(bench, as_json=as_json)  # first: minutes of measuring are not lost to a full disk
    atomic_write_json(out / "result.json", bench.to_dict())
    atomic_write_text(out / "table.md", markdown(bench))
    with atomic_path(out / "figure.png") as path:
        draw(bench, path)
    return bench
