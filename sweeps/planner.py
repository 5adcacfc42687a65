"""Expand a sweep into cells, and look up how far each one is. Reads the run store, writes nothing but a cache."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import yaml

from experiments.config import RunConfig, load_config
from experiments.errors import UserError
from experiments.identity import benchmark_id, evaluation_id, run_id
from experiments.store import RunStore
from experiments.work import Work
from sweeps import cache
from sweeps.definition import DEFINITIONS, Choice, Sweep, load_sweep, matches
from sweeps.request import Request, parse_request
from sweeps.state import CellState, cell_states, with_queue
from sweeps.submissions import places


@dataclass(frozen=True)
class Cell:
    """One entry of a sweep's table, for one seed: a training and one evaluation of it, or a benchmark."""

    sweep: str
    scale: str
    labels: Mapping[str, str]
    """Axis -> label."""
    seed: int
    preset: str
    overrides: Mapping[str, Any]
    """Everything over the preset: the scale's, the axes', the seed, and what was asked for on the command line."""
    run_id: str
    """Of the training; of a benchmark, what names the cells that are measured in turns with it."""
    eval_id: str
    """Of the evaluation, or of the benchmark."""
    max_steps: int
    name: str
    """Unique in the sweep, readable, and fit for file names: "hybrid_scheme=group_v1,seed=0"."""
    measure: Literal["evaluation", "benchmark"] = "evaluation"

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return load_config(self.preset, self.overrides)

    def works(self, store: RunStore) -> tuple[Work, ...]:
        """The folders of work behind the cell, in the order in which they get done; the last one holds its numbers."""
        if self.measure == "benchmark":
            return (store.benchmark(self.eval_id),)
        run = store.run(self.run_id)
        return run, run.evaluation(self.eval_id)


@dataclass(frozen=True)
class Excluded:
    """A combination that is left out on purpose."""

    labels: Mapping[str, str]
    reason: str


@dataclass(frozen=True)
class Group:
    """Cells that share a training, which one worker trains and then evaluates each; or that it measures in turns."""

    run_id: str
    cells: tuple[Cell, ...]
    """With different evaluations, or benchmarks."""

    @property
    def name(self) -> str:
        """Name of its first cell, which its log is called after."""
        return self.cells[0].name


@dataclass(frozen=True)
class Plan:
    """All cells of a sweep at one scale."""

    sweep: Sweep
    scale: str
    request: Request
    root: Path
    cells: tuple[Cell, ...]
    excluded: tuple[Excluded, ...] = ()

    @property
    def title(self) -> str:
        """Sweep and scale, as a person would type them."""
        return f"{self.name_or_path} --scale {self.scale}"

    @property
    def name_or_path(self) -> str:
        """What `plan` was asked for: the name of a named sweep, or the path of another one's file."""
        return self.sweep.name if self.sweep.path.parent == DEFINITIONS else str(self.sweep.path)

    @property
    def folder(self) -> Path:
        """Where the sweep's plan, job files and logs lie; configuration overrides make another sweep of it."""
        return sweep_folder(self.root, self.sweep.name, self.scale, self.request)

    @property
    def is_timed(self) -> bool:
        """Whether cells are timings, which must not disturb each other."""
        return self.sweep.config.measure == "benchmark"

    @property
    def duplicates(self) -> list[tuple[Cell, Cell]]:
        """Pairs of cells whose labels differ but whose configurations do not: the axis between them changes nothing."""
        first: dict[str, Cell] = {}
        return [(first[cell.eval_id], cell) for cell in self.cells if first.setdefault(cell.eval_id, cell) is not cell]

    def groups(self) -> list[Group]:
        """The trainings, each with its different evaluations: what is actually run."""
        found: dict[str, dict[str, Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.run_id, {}).setdefault(cell.eval_id, cell)
        return [Group(identity, tuple(cells.values())) for identity, cells in found.items()]

    def states(self) -> dict[str, CellState]:
        """The state of every cell by its name, looked up now."""
        states = cell_states(self.cells, RunStore(self.root))
        return with_queue(states, self.cells, places(self.folder) or {})

    def find(self, word: str) -> Cell:
        """The cell that a person means: its name, or the only one whose name contains the word."""
        found = [cell for cell in self.cells if cell.name == word] or [c for c in self.cells if word in c.name]
        if len(found) == 1:
            return found[0]
        names = ", ".join(cell.name for cell in (found or self.cells)[:20])
        many = f"'{word}' fits {len(found)} cells" if found else f"No cell '{word}'"
        raise UserError(f"{many} of {self.title}: {names}.")


def sweep_folder(root: Path, sweep: str, scale: str, request: Request) -> Path:
    """outputs/sweeps/<sweep>-<scale>, with a suffix for configuration overrides."""
    return root / "sweeps" / f"{sweep}-{scale}{f'-{request.digest}' if request.digest else ''}"


def plan(name: str, scale: str = "", overrides: Iterable[str] = (), root: Path | str | None = None) -> Plan:
    """Expand a sweep.

    Args:
        name: a named sweep, or a YAML file.
        scale: demo, small, paper; "" = the first that the sweep declares.
        overrides: words as typed: `key=value` of the configuration, `AXIS=LABEL[,LABEL]` to take a part of the sweep,
            `seeds=0,1,2`, `resources.KEY=VALUE`.
        root: folder of all outputs; by default runtime.root, else ABLATE_ROOT, else ./outputs.

    Raises:
        UserError: unknown sweep, scale, key or label; a combination that cannot be built.
    """
    sweep = load_sweep(name)
    scale = sweep.scale(scale)
    request = parse_request(sweep, scale, overrides, root)
    folder = sweep_folder(request.root, sweep.name, scale, request)
    amendments = cache.read_amendments(folder)
    key = {"sweep": str(sweep.path), "scale": scale, "request": request.key(), "amendments": amendments}
    path = cache.plan_path(request.root, sweep.name, scale, key)
    if (stored := cache.read_plan(path, key)) is not None:
        cells = tuple(Cell(**item) for item in stored["cells"])
        excluded = tuple(Excluded(**item) for item in stored["excluded"])
        return Plan(sweep, scale, request, request.root, cells, excluded)
    cells, excluded = _expand(sweep, scale, request, amendments)
    cache.write_plan(path, key, cells, excluded, _files(sweep, cells))
    return Plan(sweep, scale, request, request.root, cells, excluded)


def count_cells(sweep: Sweep, scale: str) -> int:
    """Number of cells at a scale, without building any configuration."""
    config = sweep.config.scales[scale]
    combinations = [_labels(c) for c in sweep.combinations(config.only)]
    return len(config.seeds) * sum(not any(matches(x, when) for when, _ in sweep.exclude) for x in combinations)


def _labels(choices: Mapping[str, Choice]) -> dict[str, str]:
    return {axis: choice.label for axis, choice in choices.items()}


def _expand(
    sweep: Sweep, scale: str, request: Request, amendments: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[Cell, ...], tuple[Excluded, ...]]:
    config = sweep.config.scales[scale]
    seeds = request.seeds or tuple(config.seeds)
    cells: list[Cell] = []
    excluded: list[Excluded] = []
    for choices in sweep.combinations({**config.only, **request.only}):
        labels = _labels(choices)
        if reasons := [reason for when, reason in sweep.exclude if matches(labels, when)]:
            excluded.append(Excluded(labels, reasons[0]))
            continue
        varied = {key: value for choice in choices.values() for key, value in choice.overrides.items()}
        if clash := sorted(varied.keys() & request.config.keys()):
            raise UserError(f"{clash[0]} is what sweep {sweep.name} varies; take a part of it with AXIS=LABEL instead.")
        base = {**config.overrides, **request.config, **varied, "runtime.root": str(request.root)}
        built: RunConfig | None = None
        for seed in seeds:
            name = _name(labels, seed if len(config.seeds) > 1 or request.seeds else None, sweep.name)
            amended = amendments.get(name)
            if built is None or amended:
                built = _build(config.preset, {**base, **(amended or {}), "seed": seed}, name)
            built = replace(built, seed=seed)  # nothing else follows from the seed
            cells.append(
                Cell(
                    sweep=sweep.name,
                    scale=scale,
                    labels=labels,
                    seed=seed,
                    preset=config.preset,
                    overrides={**base, **(amended or {}), "seed": seed},
                    **_identity(sweep, request, labels, built),
                    name=name,
                )
            )
            built = None if amended else built
    if not cells:
        raise UserError(f"Sweep {sweep.name} at scale {scale} has no cell left after exclusions and restrictions.")
    return tuple(cells), tuple(excluded)


def _identity(sweep: Sweep, request: Request, labels: Mapping[str, str], config: RunConfig) -> dict[str, Any]:
    """The part of a `Cell` that follows from its configuration."""
    if sweep.config.measure == "evaluation":
        if config.benchmark.name != "none":
            raise UserError(f"Sweep {sweep.name} sets benchmark.name; it needs measure: benchmark.")
        return {"run_id": run_id(config), "eval_id": evaluation_id(config), "max_steps": config.trainer.max_steps}
    if config.benchmark.name == "none":
        raise UserError(f"Sweep {sweep.name} has measure: benchmark but does not say which; set benchmark.name.")
    shared = {axis: label for axis, label in labels.items() if axis not in sweep.config.in_turns}
    digest = sha256(repr((sweep.name, request.digest, sorted(shared.items()), config.seed)).encode()).hexdigest()
    return {
        "run_id": f"{config.benchmark.name}-{digest[:8]}",
        "eval_id": benchmark_id(config),
        "max_steps": 0,
        "measure": "benchmark",
    }


def _name(labels: Mapping[str, str], seed: int | None, sweep: str) -> str:
    parts = [f"{axis}={label}" for axis, label in labels.items()] + ([f"seed={seed}"] if seed is not None else [])
    return re.sub(r"[^\w=.,+-]+", "_", ",".join(parts) or sweep)


def _build(preset: str, overrides: Mapping[str, Any], name: str) -> RunConfig:
    try:
        return load_config(preset, overrides)
    except UserError as error:
        raise UserError(f"Cell {name} (preset {preset}): {error}") from error


def _files(sweep: Sweep, cells: Iterable[Cell]) -> set[Path]:
    """Files that the cells' identities depend on, beside the sources and the presets that come with them."""
    files = {sweep.path}
    for preset in {cell.preset for cell in cells if cell.preset.endswith((".yaml", ".yml"))}:
        path: Path | None = Path(preset)
        while path:
            files.add(path)
            base = (yaml.safe_load(path.read_text()) or {}).get("base")
            path = path.parent / base if base else None
    for cell in cells:
        files |= {Path(value) for value in cell.overrides.values() if isinstance(value, str) and Path(value).is_file()}
    return files
