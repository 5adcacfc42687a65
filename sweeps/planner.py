"""Expand a sweep into cells, and look up how far each one is. Reads the run store, writes nothing but a cache."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from experiments.config import build_config, load_config, to_dict
from experiments.errors import UserError
from experiments.identity import benchmark_id, evaluation_id, run_id, search_id
from experiments.run_config import RunConfig
from experiments.store import RunStore
from experiments.unread import unread
from lightning_modules.names import some
from sweeps import cache
from sweeps.amendments import Amendments, amendment_of, read_amendments
from sweeps.axes import Choice, Sweep, labels_of, overrides_of
from sweeps.cell import Cell, Excluded, Group, cell_name, check_name
from sweeps.definition import DEFINITIONS, load_sweep
from sweeps.equal_compute import STEPS, equal_steps, followed
from sweeps.fact_book import FactBook
from sweeps.queue import Queue, read_queue
from sweeps.request import Request, parse_request
from sweeps.state import CellState, cell_states, with_queue

FROM_NOTHING = ("trainer.init_from", "")
"""What a value sets that starts from nothing, whatever start is typed for the others."""


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

    def states(self, queue: Queue | None = None) -> dict[str, CellState]:
        """The state of every cell by its name, looked up now.

        Args:
            queue: as it was read already; by default it is read now.
        """
        return self.states_of(self.cells, queue)

    def states_of(self, cells: Collection[Cell], queue: Queue | None = None) -> dict[str, CellState]:
        """The same of some of its cells."""
        return with_queue(cell_states(cells, RunStore(self.root)), cells, queue or read_queue(self.folder))

    def find(self, word: str) -> Cell:
        """The cell that a person means: its name, or the only one whose name contains the word."""
        found = [cell for cell in self.cells if cell.name == word] or [c for c in self.cells if word in c.name]
        if len(found) == 1:
            return found[0]
        names = some([cell.name for cell in (found or self.cells)])
        many = f"'{word}' fits {len(found)} cells" if found else f"No cell '{word}'"
        raise UserError(f"{many} of {self.title}: {names}.")


def sweep_folder(root: Path, sweep: str, scale: str, request: Request) -> Path:
    """outputs/sweeps/<sweep>-<scale>, with a suffix for configuration overrides."""
    return root / "sweeps" / f"{sweep}-{scale}{f'-{request.digest}' if request.digest else ''}"


def plan(
    name: str,
    scale: str = "",
    overrides: Iterable[str] = (),
    root: Path | str | None = None,
    amendments: Amendments | None = None,
) -> Plan:
    """Expand a sweep.

    Args:
        name: a named sweep, or a YAML file.
        scale: demo, small, paper; "" = the first that the sweep declares.
        overrides: words as typed: `key=value` of the configuration, `AXIS=LABEL[,LABEL]` to take a part of the sweep,
            `seeds=0,1,2`, `resources.KEY=VALUE`.
        root: folder of all outputs; by default runtime.root, else ABLATE_ROOT, else ./outputs.
        amendments: in place of those in the sweep's folder.

    Raises:
        UserError: unknown sweep, scale, key or label; a combination that cannot be built.
    """
    sweep = load_sweep(name, root)
    scale = sweep.scale(scale)
    request = parse_request(sweep, scale, overrides, root)
    folder = sweep_folder(request.root, sweep.name, scale, request)
    amendments = read_amendments(folder) if amendments is None else amendments
    key = {"sweep": str(sweep.path), "scale": scale, "request": request.key(), "amendments": amendments}
    path = cache.plan_path(request.root, sweep.name, scale, key)
    if (stored := cache.read_plan(path, key)) is not None:
        cells = tuple(Cell(**item) for item in stored["cells"])
        excluded = tuple(Excluded(**item) for item in stored["excluded"])
    else:
        cells, excluded = _expand(sweep, scale, request, amendments)
        cache.write_plan(path, key, cells, excluded, cache.files_of(sweep.path, cells))
    store = RunStore(request.root)
    return Plan(sweep, scale, request, request.root, tuple(cell.settled(store) for cell in cells), excluded)


def count_cells(sweep: Sweep, scale: str) -> int:
    """Number of cells at a scale, without building any configuration."""
    config = sweep.config.scales[scale]
    included = [choices for choices in sweep.combinations(config.only) if sweep.excludes(labels_of(choices)) is None]
    return len(config.seeds) * len(included)


def _expand(
    sweep: Sweep, scale: str, request: Request, amendments: Amendments
) -> tuple[tuple[Cell, ...], tuple[Excluded, ...]]:
    config = sweep.config.scales[scale]
    seeds, book = request.seeds or tuple(config.seeds), FactBook(request.root)
    cells: list[Cell] = []
    excluded: list[Excluded] = []
    named: dict[str, Mapping[str, str]] = {}
    idle: dict[str, str] | None = None  # of what was typed, what no cell so far reads
    only = {**config.only, **request.only}
    for labels, axis in sweep.unfit(only):
        reason = sweep.excludes(labels)
        excluded.append(Excluded(labels, f"no value of axis '{axis}' applies" if reason is None else reason))
    for choices in sweep.combinations(only):
        labels = labels_of(choices)
        if (reason := sweep.excludes(labels)) is not None:
            excluded.append(Excluded(labels, reason))
            continue
        preset, base = _settings(sweep, scale, request, choices)
        leader = followed(sweep, scale, choices)
        built: RunConfig | None = None
        for seed in seeds:
            name = cell_name(labels, seed if len(config.seeds) > 1 or request.seeds else None, sweep.name)
            check_name(name, labels, named.setdefault(name, labels))
            amended, theirs = (
                amendment_of(amendments, labels_of(part), seed, config.seeds, sweep.name) if part is not None else {}
                for part in (choices, leader)
            )
            if built is None or amended or theirs or built.trainer.init_from:  # which may be trained with the same seed
                if leader is not None:  # by what both are at this seed
                    follower = _build(preset, {**base, **amended}, name)
                    base[STEPS] = equal_steps(follower, _leader(sweep, scale, request, leader, theirs), book.facts)
                built = _build(preset, {**base, **amended, "seed": seed}, name)
            built = replace(built, seed=seed)  # nothing else follows from it
            idle = unread(built, request.config if idle is None else idle)
            cells.append(
                Cell(
                    sweep=sweep.name,
                    scale=scale,
                    labels=labels,
                    seed=seed,
                    preset=preset,
                    overrides={**base, **amended, "seed": seed},
                    **_identity(sweep, request, labels, built),
                    name=name,
                    amended=amended,
                )
            )
            built = None if amended or theirs else built
    if not cells:
        raise UserError(f"Sweep {sweep.name} at scale {scale} has no cell left after exclusions and restrictions.")
    for sentence in (idle or {}).values():
        raise UserError(f"No cell of sweep {sweep.name} would change: {sentence}")
    return tuple(cells), tuple(excluded)


def _settings(sweep: Sweep, scale: str, request: Request, choices: Mapping[str, Choice]) -> tuple[str, dict[str, Any]]:
    """Preset of a combination of values, and everything that is set over it."""
    preset, base = sweep.base(scale, labels_of(choices))
    varied = overrides_of(choices)
    if clash := sorted(key for key in varied.keys() & request.config.keys() if (key, varied[key]) != FROM_NOTHING):
        raise UserError(f"{clash[0]} is what sweep {sweep.name} varies; take a part of it with AXIS=LABEL instead.")
    searched = {f"search.{key}": value for key, value in sweep.config.search.items()}
    return preset, {**searched, **base, **request.config, **varied, "runtime.root": str(request.root)}


def _leader(
    sweep: Sweep, scale: str, request: Request, choices: Mapping[str, Choice], amended: Mapping[str, Any]
) -> RunConfig:
    """The run that another one's steps follow."""
    preset, base = _settings(sweep, scale, request, choices)
    return _build(preset, {**base, **amended}, cell_name(labels_of(choices), None))


def _identity(sweep: Sweep, request: Request, labels: Mapping[str, str], config: RunConfig) -> dict[str, Any]:
    """The part of a `Cell` that follows from its configuration."""
    if sweep.config.measure == "evaluation":
        if config.benchmark.name != "none":
            raise UserError(f"Sweep {sweep.name} sets benchmark.name; it needs measure: benchmark.")
        if config.trains_tokenizer:
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
    if config.search.trains and (processes := config.runtime.processes) > 1:
        raise UserError(
            f"A search over a key of the training runs one process a trial, not {processes}: set runtime.devices=1 and "
            "runtime.num_nodes=1, or search keys of sampler and evaluation alone."
        )
    for end in (0, -1):
        ends = {a.key: a.values[end] if a.values else (a.low, a.high)[end] for a in config.search.space}
        build_config(to_dict(config), {**config.search.overrides, **ends, "search.space": []})
    return search_id(config)


def _build(preset: str, overrides: Mapping[str, Any], name: str) -> RunConfig:
    try:
        return load_config(preset, overrides)
    except UserError as error:
        raise UserError(f"Cell {name} (preset {preset}): {error}") from error
