"""`ablate plan`: what a sweep comes to, before anything is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from experiments.errors import UserError
from experiments.model_facts import ModelFacts
from experiments.run_config import RunConfig
from experiments.store import RunStore
from sweeps.fact_book import FactBook
from sweeps.parents import Parent, parents
from sweeps.planner import Cell, Plan
from sweeps.state import CellState
from sweeps.table import STYLES, WIDE, cell_json, duration, folded, summary


def preview(plan: Plan) -> dict[str, Any]:
    """Everything `ablate plan` tells, as plain data with exact integers."""
    states, book, store = plan.states(), FactBook(plan.root), RunStore(plan.root)
    facts = {_built(cell): book.facts(cell.config) for cell in {_built(cell): cell for cell in plan.cells}.values()}
    first = [] if plan.is_timed else parents(plan.groups())
    facts |= {parent.run_id: book.facts(parent.config) for parent in first}
    estimate = cost(plan, states, facts, first)
    hours = _hours(plan, states, facts, estimate)
    cells = []
    for cell in plan.cells:
        fact = facts[_built(cell)]
        training = {"max_steps": cell.max_steps, "parameters": fact.parameters, "flops": fact.flops}
        cells.append(cell_json(cell, states[cell.name]) | training | {"device_hours": hours.get(cell.name)})
    return {
        "sweep": plan.sweep.name,
        "scale": plan.scale,
        "cells": cells,
        "parents": [_parent_json(parent, parent.state(store), facts[parent.run_id]) for parent in first],
        "trainings": 0 if plan.is_timed else len({_built(cell) for cell in plan.cells}),
        "excluded": [{"labels": dict(item.labels), "reason": item.reason} for item in plan.excluded],
        "duplicates": [[left.name, right.name] for left, right in plan.duplicates],
        "cost": estimate,
    }


def _parent_json(parent: Parent, state: CellState, fact: ModelFacts) -> dict[str, Any]:
    return {
        "parent": parent.name,
        "text": parent.text,
        "needed_by": list(parent.needed_by),
        "seed": parent.config.seed,
        "run_id": parent.run_id,
        "state": state.state,
        "describe": state.describe(),
        "max_steps": parent.config.trainer.max_steps,
        "parameters": fact.parameters,
        "flops": fact.flops,
    }


def _built(cell: Cell) -> str:
    """What tells the networks of cells apart."""
    return cell.eval_id if cell.measure == "benchmark" else cell.run_id or cell.search_id


def _trials(cell: Cell) -> int:
    """Trainings that a cell still takes at most: with a search over training keys, one per trial."""
    searching = cell.is_searched and cell.config.search.trains
    return cell.config.search.trials if searching else 1


def cost(
    plan: Plan, states: dict[str, CellState], facts: dict[str, ModelFacts], first: Sequence[Parent] = ()
) -> dict[str, Any] | None:
    """Device-hours that the open trainings will take, and what that is reckoned from; None if nothing is known.

    Trainings of this sweep that are done tell how fast this hardware is; otherwise, on GPUs, the resources' peak and
    efficiency are assumed.

    Args:
        first: the runs that the trainings start from; those that are not done count as well.
    """
    if plan.is_timed:
        return None
    store, todo = RunStore(plan.root), _to_train(plan, states)
    cells = _one_each(group.cells[0] for group in plan.groups())
    flops = sum(_training_flops(cell, facts) for cell in todo)
    waited_for = _ancestors(first, {cell.name for cell in todo})
    before = [parent for parent in waited_for if parent.state(store).state != "done"]
    flops += sum(facts[parent.run_id].training_flops(parent.config) for parent in before)
    trainings = [(cell.run_id, cell.config, facts[_built(cell)]) for cell in cells if cell.run_id]
    trainings += [(parent.run_id, parent.config, facts[parent.run_id]) for parent in first]
    spent = [found for item in trainings if (found := _spent(store, *item))]
    resources = plan.request.resources
    if spent:
        # All operations by all seconds: the mean of the rates would be that of the fast ones, which take little time.
        rate = sum(done for done, _ in spent) / sum(seconds for _, seconds in spent)
        basis = f"measured on {len(spent)} finished training(s)"
    elif resources.gpus:
        rate = resources.peak_tflops * 1e12 * resources.efficiency
        basis = f"assumed: {resources.peak_tflops:g} TFLOP/s per GPU at {resources.efficiency:.0%} efficiency"
    else:
        return None
    return {
        "trainings": len(todo) + len(before),
        "flops": flops,
        "device_hours": flops / rate / 3600,
        "basis": basis,
    }


def _to_train(plan: Plan, states: dict[str, CellState]) -> list[Cell]:
    """The first cell of every training that is not done."""
    cells = (group.cells[0] for group in plan.groups())
    return _one_each(cell for cell in cells if states[cell.name].part == "training" or _trials(cell) > 1)


def _one_each(cells: Iterable[Cell]) -> list[Cell]:
    """The first cell of every training: several searches may share one."""
    found: dict[str, Cell] = {}
    for cell in cells:
        found.setdefault(_built(cell), cell)
    return list(found.values())


def _training_flops(cell: Cell, facts: dict[str, ModelFacts]) -> float:
    return facts[_built(cell)].training_flops(cell.config) * _trials(cell)


def _hours(
    plan: Plan, states: dict[str, CellState], facts: dict[str, ModelFacts], estimate: dict[str, Any] | None
) -> dict[str, float]:
    """Device-hours of each open training, at the rate of the whole, by the name of its first cell."""
    if not estimate or not estimate["flops"]:
        return {}
    share = estimate["device_hours"] / estimate["flops"]
    return {cell.name: _training_flops(cell, facts) * share for cell in _to_train(plan, states)}


def _ancestors(first: Sequence[Parent], names: set[str]) -> list[Parent]:
    """Those that the cells of these names start from, directly or not."""
    needed: list[Parent] = []
    for parent in reversed(first):  # children come after what they start from
        if names & set(parent.needed_by):
            needed.insert(0, parent)
            names = {*names, parent.name}
    return needed


def _spent(store: RunStore, run: str, config: RunConfig, fact: ModelFacts) -> tuple[float, float] | None:
    """FLOPs of a training that is done, and the device-seconds that it took."""
    try:
        result = store.run(run).result() or {}
    except UserError:
        return None  # a damaged result is shown with its cell
    if not result.get("train_seconds"):
        return None
    done = result["step"] / config.trainer.max_steps
    own = config.runtime.processes
    devices = result.get("provenance", {}).get("processes", own)  # of a job, what its resources came to
    return fact.training_flops(config) * done, result["train_seconds"] * devices


def amount(hours: float) -> str:
    """Device-hours to two digits, or tenths."""
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"


def tell_cost(estimate: dict[str, Any]) -> str:
    """The cost in words."""
    hours = estimate["device_hours"]
    time = f"{hours:,.1f} device-hours" if hours >= 10 else f"{duration(3600 * hours)} (h:mm:ss) on one device"
    return f"Still to train: {estimate['trainings']}, {time}, {estimate['basis']}."


def print_preview(plan: Plan, console: Console) -> None:
    """The same for people."""
    found, states = preview(plan), plan.states()
    title = f"{plan.sweep.name} · {plan.scale}: {plan.sweep.config.title}"
    table = Table(title=title, box=None, pad_edge=False, collapse_padding=True)
    hours = ["device-\nhours"] if any(cell["device_hours"] for cell in found["cells"]) else []
    wide = console.width >= WIDE
    for name in ("cell", *(["run"] if wide else []), "parameters", "GFLOPs", "steps", *hours, "state"):
        justify: JustifyMethod = "left" if name in ("cell", "run", "state") else "right"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "state", min_width=7)
    for parent in found["parents"]:
        table.add_row(
            *_beside([f"(first) {parent['parent']}", parent["run_id"]], wide),
            f"{parent['parameters']:,}",
            f"{parent['flops'] / 1e9:,.3f}",
            f"{parent['max_steps']:,}",
            *("" for _ in hours),
            Text(parent["describe"], style=STYLES[parent["state"]]),
        )
    for cell in found["cells"]:
        state = states[cell["cell"]]
        run = cell["run_id"] or cell["eval_id"] or cell["search_id"]
        table.add_row(
            *_beside([folded(cell["cell"], console.width), run], wide),
            f"{cell['parameters']:,}",
            f"{cell['flops'] / 1e9:,.3f}",
            f"{cell['max_steps']:,}" if cell["max_steps"] else "",
            *(amount(cell["device_hours"]) if cell["device_hours"] else "" for _ in hours),
            Text(state.describe(), style=STYLES[state.state]),
        )
    console.print(table)
    what = "timed without training" if plan.is_timed else f"{found['trainings']} trainings"
    lines = [f"{len(found['cells'])} cells, {what}{_searches(plan)}. {summary(states)}"]
    for parent in found["parents"]:
        lines.append(f"First: {parent['text']}.")
    for item in found["excluded"]:
        lines.append(f"Left out: {', '.join(f'{k}={v}' for k, v in item['labels'].items())}: {item['reason']}")
    for left, right in found["duplicates"]:
        lines.append(f"Note: {right} is the same as {left}; it is run once.")
    if (estimate := found["cost"]) and estimate["trainings"]:
        lines.append(tell_cost(estimate))
    for line in lines:
        console.print(line, soft_wrap=True)


def _searches(plan: Plan) -> str:
    """How many searches there are, and what their trials are, in words; "" where nothing is searched."""
    searches = {cell.search_id: cell.config.search for cell in plan.cells if cell.is_searched}.values()
    counts = Counter(f"{one.trials} {'trainings' if one.trains else 'evaluations'}" for one in searches)
    return "".join(f", {count} search{'es' * (count > 1)} of {trials} each" for trials, count in counts.items())


def _beside(words: list[str], wide: bool) -> list[str]:
    """Two columns, or in a narrow terminal one with the second word in a line below the first."""
    return words if wide else ["\n  ".join(words)]
