"""Expand a sweep into cells, and look up how far each one is. Reads the run store, writes nothing but a cache."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from experiments.config import RunConfig, build_config, load_config, to_dict
from experiments.environment import environment_kernels
from experiments.errors import UserError
from experiments.flat import flatten
from experiments.identity import benchmark_id, evaluation_id, run_id, search_id
from experiments.store import RunStore
from lightning_modules.backends import AUTO
from sweeps import cache
from sweeps.cell import Cell, Excluded, Group
from sweeps.definition import DEFINITIONS, Choice, Sweep, load_sweep, matches
from sweeps.equal_compute import STEPS, equal_steps, followed, labels_of
from sweeps.fact_book import FactBook
from sweeps.request import Request, parse_request
from sweeps.state import CellState, cell_states, with_queue
from sweeps.submissions import places, with_accounting

LONGEST_NAME = 240
"""Bytes in the name of a cell: with an ending it must fit the 255 that file systems allow."""


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
        """Sweep, scale and words, as a person would type them."""
        return shlex.join([self.name_or_path, "--scale", self.scale, *self.request.words])

    @property
    def name_or_path(self) -> str:
        """What `plan` was asked for: the name of a named sweep, or the path of another one's file."""
        return self.sweep.name if self.sweep.path.parent == DEFINITIONS else str(self.sweep.path)

    @property
    def folder(self) -> Path:
        """Where the sweep's plan, job files and logs lie; configuration overrides make another sweep of it."""
        return sweep_folder(self.root, self.sweep.name, self.scale, self.request)

    @property
    def picked(self) -> dict[str, tuple[str, ...]]:
        """What was asked for that makes other cells than the scale's own: axis -> labels, and "seeds"."""
        own, asked, found = self.sweep.config.scales[self.scale], self.request, {}
        for axis in self.sweep.axes:
            labels = tuple(label for label in axis.labels if label in asked.only.get(axis.name, ()))
            if labels and set(labels) != set(own.only.get(axis.name, axis.labels)):
                found[axis.name] = labels
        if asked.seeds and set(asked.seeds) != set(own.seeds):
            found["seeds"] = tuple(map(str, sorted(asked.seeds)))
        return found

    @property
    def is_timed(self) -> bool:
        """Whether cells are timings, which must not disturb each other."""
        return self.sweep.config.measure == "benchmark"

    @property
    def duplicates(self) -> list[tuple[Cell, Cell]]:
        """Pairs of cells whose labels differ but whose configurations do not: the axis between them changes nothing."""
        first: dict[str, Cell] = {}
        ids = [(cell.search_id or cell.eval_id, cell) for cell in self.cells]
        return [(first[name], cell) for name, cell in ids if first.setdefault(name, cell) is not cell]

    def groups(self) -> list[Group]:
        """The trainings, each with its different evaluations, or the timings: what is actually run."""
        found: dict[str, dict[str, Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.group, {}).setdefault(cell.search_id or cell.eval_id, cell)
        return [Group(identity, tuple(cells.values())) for identity, cells in found.items()]

    def states(self) -> dict[str, CellState]:
        """The state of every cell by its name, looked up now."""
        return self.states_of(self.cells)

    def states_of(self, cells: Collection[Cell]) -> dict[str, CellState]:
        """The same of some of its cells."""
        states = cell_states(cells, RunStore(self.root))
        found = places(self.folder) or {}
        unsaid = {cell.group for cell in cells if states[cell.name].state in ("missing", "interrupted")}
        return with_queue(states, cells, with_accounting(found, unsaid))

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
    sweep = load_sweep(name, root)
    scale = sweep.scale(scale)
    request = parse_request(sweep, scale, overrides, root)
    folder = sweep_folder(request.root, sweep.name, scale, request)
    amendments = cache.read_amendments(folder)
    key = {"sweep": str(sweep.path), "scale": scale, "request": request.key(), "amendments": amendments}
    key["kernels"] = _environment_kernels(sweep)
    path = cache.plan_path(request.root, sweep.name, scale, key)
    if (stored := cache.read_plan(path, key)) is not None:
        cells = tuple(Cell(**item) for item in stored["cells"])
        excluded = tuple(Excluded(**item) for item in stored["excluded"])
    else:
        cells, excluded = _expand(sweep, scale, request, amendments)
        cache.write_plan(path, key, cells, excluded, _files(sweep, cells))
    store = RunStore(request.root)
    return Plan(sweep, scale, request, request.root, tuple(cell.settled(store) for cell in cells), excluded)


def count_cells(sweep: Sweep, scale: str) -> int:
    """Number of cells at a scale, without building any configuration."""
    config = sweep.config.scales[scale]
    combinations = [labels_of(c) for c in sweep.combinations(config.only)]
    return len(config.seeds) * sum(not any(matches(x, when) for when, _ in sweep.exclude) for x in combinations)


def _expand(
    sweep: Sweep, scale: str, request: Request, amendments: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[Cell, ...], tuple[Excluded, ...]]:
    config = sweep.config.scales[scale]
    seeds, book = request.seeds or tuple(config.seeds), FactBook(request.root)
    cells: list[Cell] = []
    excluded: list[Excluded] = []
    named: dict[str, Mapping[str, str]] = {}
    kernels = _environment_kernels(sweep)
    for choices in sweep.combinations({**config.only, **request.only}):
        labels = labels_of(choices)
        if reasons := [reason for when, reason in sweep.exclude if matches(labels, when)]:
            excluded.append(Excluded(labels, reasons[0]))
            continue
        preset, base = _settings(sweep, scale, request, choices)
        if other := followed(sweep, scale, choices):
            follower, leader = (
                _build(*_settings(sweep, scale, request, part), _name(labels, None, "")) for part in (choices, other)
            )
            base[STEPS] = equal_steps(follower, leader, book.facts)
        built: RunConfig | None = None
        for seed in seeds:
            name = _name(labels, seed if len(config.seeds) > 1 or request.seeds else None, sweep.name)
            _check_name(name, labels, named.setdefault(name, labels))
            amended = amendments.get(name)
            if built is None or amended or built.trainer.init_from:  # which may be trained with the same seed
                built = _build(preset, {**base, **(amended or {}), "seed": seed}, name)
                if kernels != AUTO and built.runtime.kernels == AUTO:
                    base["runtime.kernels"] = kernels  # a job on another machine does not see this environment
                    built = _build(preset, {**base, **(amended or {}), "seed": seed}, name)
            built = replace(built, seed=seed)  # nothing else follows from it
            cells.append(
                Cell(
                    sweep=sweep.name,
                    scale=scale,
                    labels=labels,
                    seed=seed,
                    preset=preset,
                    overrides={**base, **(amended or {}), "seed": seed},
                    **_identity(sweep, request, labels, built),
                    name=name,
                )
            )
            built = None if amended else built
    if not cells:
        raise UserError(f"Sweep {sweep.name} at scale {scale} has no cell left after exclusions and restrictions.")
    return tuple(cells), tuple(excluded)


def _settings(sweep: Sweep, scale: str, request: Request, choices: Mapping[str, Choice]) -> tuple[str, dict[str, Any]]:
    """Preset of a combination of values, and everything that is set over it."""
    preset, base = sweep.base(scale, labels_of(choices))
    varied = {key: value for choice in choices.values() for key, value in choice.overrides.items()}
    if clash := sorted(varied.keys() & request.config.keys()):
        raise UserError(f"{clash[0]} is what sweep {sweep.name} varies; take a part of it with AXIS=LABEL instead.")
    searched = {f"search.{key}": value for key, value in sweep.config.search.items()}
    return preset, {**searched, **base, **request.config, **varied, "runtime.root": str(request.root)}


def _environment_kernels(sweep: Sweep) -> str:
    """The back ends that the environment forces, where they make another result: of timings. "auto" if none."""
    return environment_kernels() if sweep.config.measure == "benchmark" else AUTO


def _identity(sweep: Sweep, request: Request, labels: Mapping[str, str], config: RunConfig) -> dict[str, Any]:
    """The part of a `Cell` that follows from its configuration."""
    if sweep.config.measure == "evaluation":
        if config.benchmark.name != "none":
            raise UserError(f"Sweep {sweep.name} sets benchmark.name; it needs measure: benchmark.")
        if config.objective.name == "reconstruction":
            raise UserError(
                f"Sweep {sweep.name}: {config.preset} trains a tokenizer, which has no evaluation, so no cell would "
                f"ever be done; train each by itself: ablate train {config.preset} KEY=VALUE."
            )
        run, steps = run_id(config), config.trainer.max_steps
        if not config.search.space:
            return {"group": run, "run_id": run, "eval_id": evaluation_id(config), "max_steps": steps}
        search = _checked_search(config)
        run = "" if config.search.trains else run
        return {"group": search, "run_id": run, "eval_id": "", "max_steps": steps, "search_id": search}
    if config.benchmark.name == "none":
        raise UserError(f"Sweep {sweep.name} has measure: benchmark but does not say which; set benchmark.name.")
    shared = {axis: label for axis, label in labels.items() if axis not in sweep.config.in_turns}
    digest = sha256(repr((sweep.name, request.digest, sorted(shared.items()), config.seed)).encode()).hexdigest()
    return {
        "group": f"{config.benchmark.name}-{digest[:8]}",
        "run_id": "",
        "eval_id": benchmark_id(config),
        "max_steps": 0,
        "measure": "benchmark",
    }


def _checked_search(config: RunConfig) -> str:
    """The id of the configuration's search. Raises UserError if a value that it may try cannot be built, or if trials
    that are trainings would take several processes each."""
    if config.search.trains and (processes := config.runtime.devices * config.runtime.num_nodes) > 1:
        raise UserError(
            f"A search over a key of the training runs one process a trial, not {processes}: set runtime.devices=1 and "
            "runtime.num_nodes=1, or search keys of sampler and evaluation alone."
        )
    for end in (0, -1):
        ends = {a.key: a.values[end] if a.values else (a.low, a.high)[end] for a in config.search.space}
        build_config(to_dict(config), {**config.search.overrides, **ends, "search.space": []})
    return search_id(config)


def _name(labels: Mapping[str, str], seed: int | None, sweep: str) -> str:
    parts = [f"{axis}={label}" for axis, label in labels.items()] + ([f"seed={seed}"] if seed is not None else [])
    return re.sub(r"[^\w=.,+-]+", "_", ",".join(parts) or sweep)


def _check_name(name: str, labels: Mapping[str, str], first: Mapping[str, str]) -> None:
    """Raise UserError if a cell's name is not its own, or too long for the name of a file.

    Args:
        first: the labels of the first cell of that name.
    """
    if labels != first:
        axis = next(axis for axis in (*labels, *first) if labels.get(axis) != first.get(axis))
        raise UserError(
            f"The labels '{first.get(axis)}' and '{labels.get(axis)}' of axis '{axis}' make one name, {name}, of two "
            "cells; give one of them a label that differs in letters or digits: {value: ..., label: ...}."
        )
    if len(name.encode()) > LONGEST_NAME:
        raise UserError(
            f"The name {name[:40]}... of a cell has {len(name.encode())} bytes, and files are called after it: at most "
            f"{LONGEST_NAME}; give long values short labels: {{value: ..., label: ...}}."
        )


def _build(preset: str, overrides: Mapping[str, Any], name: str) -> RunConfig:
    try:
        return load_config(preset, overrides)
    except UserError as error:
        raise UserError(f"Cell {name} (preset {preset}): {error}") from error


def _files(sweep: Sweep, cells: Iterable[Cell]) -> set[Path]:
    """Files and folders that the cells' identities depend on, beside the sources and the presets that come with them:
    the definition, presets of one's own, and whatever a setting names: weights, stores, references."""
    files = {sweep.path}
    settings = {(key, value) for cell in cells for key, value in cell.overrides.items() if isinstance(value, str)}
    for preset in {cell.preset for cell in cells if cell.preset.endswith((".yaml", ".yml"))}:
        path: Path | None = Path(preset)
        while path:
            files.add(path)
            raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            settings |= {(key, value) for key, value in flatten(raw).items() if isinstance(value, str)}
            path = path.parent / raw["base"] if raw.get("base") else None
    for value in {value for key, value in settings if not key.startswith("runtime.")}:
        files |= _content(Path(value))
    return files


def _content(path: Path) -> set[Path]:
    """A file, or of a folder what changes when something in it does: itself, what is in it, and, one deeper, folders
    and the descriptions of stores."""
    try:
        if not path.is_dir():
            return {path} if path.is_file() else set()
        inside = set(path.iterdir())
        deeper = {found for place in inside if place.is_dir() for found in place.iterdir()}
    except OSError:  # no path at all, such as a long text, or one that cannot be read
        return set()
    return {path, *inside, *(found for found in deeper if found.suffix in (".json", ".npy") or found.is_dir())}
