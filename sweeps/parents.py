"""The runs that a sweep's trainings start from (`trainer.init_from`): no cells, but trained before them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.lineage import PresetStart, RunStart, start_of
from experiments.run_config import RunConfig
from experiments.store import RunStore
from lightning_modules.names import some
from sweeps.cell import Group
from sweeps.state import CellState


@dataclass(frozen=True)
class Parent:
    """A run that others start from."""

    name: str
    """The preset, or the run's id, as `trainer.init_from` has it, and the seed where it is not 0."""
    config: RunConfig
    run_id: str
    needed_by: tuple[str, ...]
    """Names of the cells, or of other parents."""

    @property
    def text(self) -> str:
        """Name, and what starts from it."""
        return f"{self.name} ({self.run_id}), the start of {some(self.needed_by, 3)}"

    def state(self, store: RunStore) -> CellState:
        """How far it is, looked up now."""
        return CellState(store.run(self.run_id).inspect(), "training")


def parents(groups: Iterable[Group]) -> list[Parent]:
    """The parents of these trainings, and theirs, in the order in which they are trained; none that is a cell itself.

    Raises:
        UserError: a run that is named and not there.
    """
    groups = [group for group in groups if group.cells[0].run_id]
    own = {group.id for group in groups}
    found: dict[str, Parent] = {}
    for group in groups:
        child, name = group.cells[0].config, group.cells[0].name
        line: list[Parent] = []
        while child.trainer.init_from and isinstance(start := start_of(child), RunStart):
            config = start.config
            called = f"{start.name}{f',seed={config.seed}' if config.seed else ''}"
            line.insert(0, Parent(called, config, start.run.id, (name,)))
            if not isinstance(start, PresetStart) and start.run.is_done():  # whatever it once started from
                break
            child, name = config, called
        for parent in line:
            if parent.run_id in own:
                continue
            known = found.setdefault(parent.run_id, replace(parent, needed_by=()))
            names = tuple(dict.fromkeys((*known.needed_by, *parent.needed_by)))
            found[parent.run_id] = replace(known, needed_by=names)
    return list(found.values())


def dry_run(groups: Iterable[Group], root: Path) -> list[str]:
    """What `ablate run --dry-run` says about the parents of these trainings."""
    lines = []
    for parent in parents(groups):
        state = parent.state(RunStore(root))
        verb = "would use" if state.state == "done" else "would start first"
        lines.append(f"{verb}  {parent.text}: {state.describe()}")
    return lines
