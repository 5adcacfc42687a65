"""The units of a sweep: cells of its table, and groups of cells that one worker does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from experiments.config import load_config
from experiments.errors import UserError
from experiments.run_config import RunConfig
from experiments.store import RunStore
from experiments.work import Work

LONGEST_NAME = 240
"""Bytes in the name of a cell: with an ending it must fit the 255 that file systems allow."""


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
    group: str
    """Shared by the cells that one worker does: the training they share, or those that are measured in turns."""
    run_id: str
    """Of the training; "" if there is none."""
    eval_id: str
    """Of the evaluation, or of the benchmark."""
    max_steps: int
    name: str
    """Unique in the sweep, readable, and fit for file names: "hybrid_scheme=group_v1,seed=0"."""
    measure: Literal["evaluation", "benchmark"] = "evaluation"
    search_id: str = ""
    """Of the search for some of its values; as long as that is under way, `eval_id` is "", and `run_id` too if every
    trial is a training."""
    amended: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of its own, from `ablate retry SWEEP KEY=VALUE`; among `overrides`."""

    @property
    def is_searched(self) -> bool:
        """Whether some of its values are still to be found."""
        return bool(self.search_id and not self.eval_id)

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return load_config(self.preset, self.overrides)

    def settled(self, store: RunStore) -> Cell:
        """The cell with the values that its search has found; itself if nothing is searched, or not yet found."""
        if not self.is_searched:
            return self
        try:
            found = store.search(self.search_id).result()
        except UserError:
            return self  # a damaged result is shown with its state
        if found is None:
            return self
        overrides = {**self.overrides, "search.space": [], **found["chosen"]}
        return replace(self, overrides=overrides, run_id=found["run_id"], eval_id=found["eval_id"])

    def works(self, store: RunStore) -> tuple[Work, ...]:
        """The folders of work behind the cell, in the order in which they get done; the last one holds its numbers."""
        if self.measure == "benchmark":
            return (store.benchmark(self.eval_id),)
        cell = self.settled(store)
        works = [store.run(cell.run_id)] if cell.run_id else []
        if cell.eval_id:
            return (*works, works[0].evaluation(cell.eval_id))
        return (*works, store.search(cell.search_id))


@dataclass(frozen=True)
class Excluded:
    """A combination that is left out on purpose."""

    labels: Mapping[str, str]
    reason: str


@dataclass(frozen=True)
class Group:
    """Cells that share a training, which one worker trains and then evaluates each; or that it measures in turns."""

    id: str
    cells: tuple[Cell, ...]
    """With different evaluations, or benchmarks."""

    @property
    def name(self) -> str:
        """Name of its first cell, which it is called by on the terminal."""
        return self.cells[0].name


def cell_name(labels: Mapping[str, str], seed: int | None, sweep: str = "") -> str:
    """Name of a cell, of what file names may hold; that of its `sweep` where it has neither labels nor a seed."""
    parts = [f"{axis}={label}" for axis, label in labels.items()] + ([f"seed={seed}"] if seed is not None else [])
    return re.sub(r"[^\w=.,+-]+", "_", ",".join(parts) or sweep)


def check_name(name: str, labels: Mapping[str, str], first: Mapping[str, str]) -> None:
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
