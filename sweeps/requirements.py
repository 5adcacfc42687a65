"""What the open cells of a sweep need before anything is begun: files, and weights that their networks can take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from experiments.checks import check_files
from experiments.errors import UserError
from experiments.lineage import start_of
from experiments.store import RunStore
from sweeps.cell import Cell
from sweeps.planner import Plan
from sweeps.state import CellState


def refusals(plan: Plan, states: Mapping[str, CellState]) -> Iterator[UserError]:
    """Why nothing is begun as it stands, each reason once."""
    said, fitting = set[str](), set[str]()
    for group in plan.groups():
        for cell in group.cells[:1] if plan.is_timed else group.cells:
            if not states[cell.name].is_open:
                continue
            try:
                check_files(cell.config, evaluated=True)
                _check_start(cell, RunStore(plan.root), fitting)
            except UserError as error:
                if str(error) not in said:
                    said.add(str(error))
                    yield error


def _check_start(cell: Cell, store: RunStore, fitting: set[str]) -> None:
    """Raise UserError if a training that is to be done cannot start from the weights that are named for it.

    Args:
        fitting: weights and networks that were found to go together, to which these are added.
    """
    config = cell.config
    if not config.trainer.init_from or cell.measure == "benchmark":
        return
    if cell.run_id and store.run(cell.run_id).is_done():  # whatever it once started from
        return
    both = repr((config.trainer.init_from, config.generator))
    if both not in fitting:
        try:
            start_of(config).check(config)
        except UserError as error:
            raise UserError(f"Cell {cell.name}: {error}") from error
        fitting.add(both)
