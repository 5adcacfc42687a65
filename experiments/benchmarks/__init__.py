"""Benchmarks without training: ratios of interleaved measurements, the floor, peak memory, an oracle check before all.

Importing this package imports nothing heavy; `run` loads the one benchmark it is asked for.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import UserError, unknown

if TYPE_CHECKING:
    from experiments.benchmarks.bench import Bench

# name -> "module:function"; the function takes keyword options and returns a Bench.
BENCHMARKS: dict[str, str] = {
    "scan": "experiments.benchmarks.scan:scan",
    "cross-scan": "experiments.benchmarks.cross_scan:cross_scan",
    "ssd": "experiments.benchmarks.ssd:duality",
    "conv": "experiments.benchmarks.conv:conv",
    "rows": "experiments.benchmarks.rows:rows",
    "linear": "experiments.benchmarks.linear:linear",
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


def summary_of(name: str) -> str:
    """What benchmark `name` measures, read without importing it: the first line of its module, behind the command."""
    spec = importlib.util.find_spec(BENCHMARKS[name].partition(":")[0])
    assert spec and spec.origin
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0].partition(": ")[2]


def run(name: str, root: Path, *, out: Path | None = None, as_json: bool = False, **options: Any) -> Bench:
    """Run benchmark `name` once no other one measures here; write result.json, table.md and figure.png; print a table
    or the JSON.

    Args:
        root: output folder; benchmarks and benchmark cells with the same root wait for each other.
        out: folder of the files; by default root/benchmarks/name.
        options: of the benchmark's function.

    Raises:
        UserError: no such benchmark or option, back ends that cannot be forced, a baseline whose results are wrong, or
            a folder that cannot be written.
    """
    from experiments.benchmarks.options import check_option, words_of

    function = function_of(name)
    for option in options:
        check_option(function, option)
    kernels = _forced_kernels(function)
    import torch

    from experiments.allocator import keep_freed_memory
    from experiments.benchmarks.alone import alone, signs_of_other_work
    from experiments.benchmarks.figure import draw
    from experiments.benchmarks.table import markdown, show
    from experiments.files import atomic_path, atomic_write_json, atomic_write_text, make_folder
    from lightning_modules.kernels import backends_used, reset_backends_used

    out = out or root / "benchmarks" / name
    make_folder(out)
    keep_freed_memory()  # as in a training, and so is
    torch.set_float32_matmul_precision("high")
    try:
        with alone(root) as load:
            reset_backends_used()
            bench = function(**options)
    except BaseException:
        with suppress(OSError):  # it holds an earlier result
            out.rmdir()
        raise
    bench.command = shlex.join(["ablate", "bench", name, *words_of(options)])
    bench.machine |= {"backends": backends_used(), "forced_kernels": kernels, "load_before": load}
    baselines = [row for row in bench.rows if row.contender == bench.baseline]
    bench.notes += signs_of_other_work(load, bench.machine["threads"], baselines)
    show(bench, as_json=as_json)  # first: minutes of measuring are not lost to a full disk
    atomic_write_json(out / "result.json", bench.to_dict())
    atomic_write_text(out / "table.md", markdown(bench))
    with atomic_path(out / "figure.png") as path:
        draw(bench, path)
    return bench


def _forced_kernels(function: Callable[..., Bench]) -> str:
    """What the environment asks for, empty where it leaves the choice; raises UserError where it cannot be had."""
    from experiments.benchmarks.options import BACKENDS
    from experiments.environment import environment_kernels
    from lightning_modules.backends import AUTO, ENVIRONMENT_VARIABLE

    value = environment_kernels()
    if value != AUTO and BACKENDS in inspect.signature(function).parameters:
        raise UserError(
            f"{ENVIRONMENT_VARIABLE}={value} chooses nothing in this benchmark, which compares back ends: unset it and "
            f"name them with {BACKENDS}=cpp,torch."
        )
    return "" if value == AUTO else value
