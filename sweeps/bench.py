"""`ablate bench plan`: how long a sweep's expansion and the states of its cells take.

The floor is what the operating system needs to look for the result of every cell once. Lives here, not with the other
benchmarks, because it measures what is in this package.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from experiments.benchmarks.bench import Bench
from experiments.benchmarks.measure import interleave, machine
from experiments.store import RunStore
from sweeps.planner import Plan, plan

BASELINE = "remembered"


def plan_bench(cells: int = 300, done: float = 0.5, seconds: float = 12.0) -> Bench:
    """cells: of a sweep over one sampler setting. done: share of them that have a result."""
    bench = Bench("plan", f"Planning a sweep of {cells:,} cells, {done:.0%} done", BASELINE, machine=machine(1))
    bench.notes.append("floor: a look for the result of every cell")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "outputs"
        root.mkdir()
        path = _definition(Path(name), cells)
        planned = plan(path, root=root)
        results = _finish(planned, root, done)

        def expand() -> Plan:
            shutil.rmtree(root / "cache" / "plans")
            return plan(path, root=root)

        calls: dict[str, Callable[[], Any]] = {
            BASELINE: lambda: plan(path, root=root),
            "from the definition": expand,
            "remembered, with all states": lambda: plan(path, root=root).states(),
        }
        floor = min(_milliseconds_to_look(results) for _ in range(3))
        floors = {"remembered, with all states": floor}
        bench.rows = interleave(
            f"{cells:,} cells", "plan", calls, baseline=BASELINE, seconds=seconds, floors_ms=floors, memory=False
        )
    return bench


def _definition(folder: Path, cells: int) -> str:
    """A sweep over the temperature, whose cells share a training."""
    values = [round(1 + index / 10_000, 4) for index in range(cells)]
    definition = {
        "name": "planned",
        "title": "Planned",
        "paper": {"system": "None"},
        "reproduces": "Nothing.",
        "scales": {"demo": {"preset": "maskmamba/demo"}},
        "axes": [{"name": "temperature", "key": "sampler.temperature", "values": values}],
    }
    path = folder / "planned.yaml"
    path.write_text(yaml.safe_dump(definition))
    return str(path)


def _finish(planned: Plan, root: Path, share: float) -> list[Path]:
    """Write results for a share of the cells; returns the places of all."""
    store, places = RunStore(root), []
    for index, cell in enumerate(planned.cells):
        work = cell.works(store)[-1]
        places.append(work.result_path)
        if index < share * len(planned.cells):
            work.folder.mkdir(parents=True)
            work.result_path.write_text('{"metrics": {"fd_efflite0": 1.0}}')
    return places


def _milliseconds_to_look(paths: list[Path]) -> float:
    begun = time.perf_counter()
    for path in paths:
        os.path.exists(path)
    return (time.perf_counter() - begun) * 1e3
