"""`ablate plan`: what a sweep comes to, before anything is run."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.errors import UserError
from experiments.store import RunStore
from sweeps.model_facts import FactBook, ModelFacts
from sweeps.planner import Cell, Plan
from sweeps.state import CellState
from sweeps.table import STYLES, cell_json, duration, summary


def preview(plan: Plan) -> dict[str, Any]:
    """Everything `ablate plan` tells, as plain data with exact integers."""
    states, book = plan.states(), FactBook(plan.root)
    facts = {_built(cell): book.facts(cell.config) for cell in {_built(cell): cell for cell in plan.cells}.values()}
    cells = []
    for cell in plan.cells:
        fact = facts[_built(cell)]
        cells.append({**cell_json(cell, states[cell.name]), "parameters": fact.parameters, "flops": fact.flops})
    return {
        "sweep": plan.sweep.name,
        "scale": plan.scale,
        "cells": cells,
        "trainings": 0 if plan.is_timed else len(facts),
        "excluded": [{"labels": dict(item.labels), "reason": item.reason} for item in plan.excluded],
        "duplicates": [[left.name, right.name] for left, right in plan.duplicates],
        "cost": cost(plan, states, facts),
    }


def _built(cell: Cell) -> str:
    """What tells the networks of cells apart."""
    return cell.eval_id if cell.measure == "benchmark" else cell.run_id or cell.search_id


def _trials(cell: Cell) -> int:
    """Trainings that a cell still takes at most: with a search over training keys, one per trial."""
    searching = cell.search_id and not cell.eval_id and cell.config.search.trains
    return cell.config.search.trials if searching else 1


def cost(plan: Plan, states: dict[str, CellState], facts: dict[str, ModelFacts]) -> dict[str, Any] | None:
    """Device-hours that the open trainings will take, and what that is reckoned from; None if nothing is known.

    Trainings of this sweep that are done tell how fast this hardware is; otherwise, on GPUs, the resources' peak and
    efficiency are assumed.
    """
    if plan.is_timed:
        return None
    resources = plan.request.resources
    groups = plan.groups()
    todo = [group for group in groups if states[group.cells[0].name].part == "training" or _trials(group.cells[0]) > 1]
    flops = sum(
        facts[_built(group.cells[0])].training_flops(group.cells[0].config) * _trials(group.cells[0]) for group in todo
    )
    rates = []
    for group in groups:
        try:
            result = RunStore(plan.root).run(group.cells[0].run_id).result() if group.cells[0].run_id else None
        except UserError:
            continue  # a damaged result is shown with its cell
        if seconds := (result or {}).get("train_seconds"):
            runtime = group.cells[0].config.runtime
            devices = runtime.devices * runtime.num_nodes
            rates.append(facts[_built(group.cells[0])].training_flops(group.cells[0].config) / seconds / devices)
    if rates:
        rate, basis = sum(rates) / len(rates), f"measured on {len(rates)} finished training(s)"
    elif resources.gpus:
        rate = resources.peak_tflops * 1e12 * resources.efficiency
        basis = f"assumed: {resources.peak_tflops:g} TFLOP/s per GPU at {resources.efficiency:.0%} efficiency"
    else:
        return None
    return {"trainings": len(todo), "flops": flops, "device_hours": flops / rate / 3600, "basis": basis}


def print_preview(plan: Plan, console: Console) -> None:
    """The same for people."""
    found, states = preview(plan), plan.states()
    table = Table(title=f"{plan.sweep.name} · {plan.scale}: {plan.sweep.config.title}", box=None)
    for name in ("cell", "run", "parameters", "GFLOPs", "steps", "state"):
        table.add_column(name, justify="left" if name in ("cell", "run", "state") else "right", overflow="fold")
    for cell in found["cells"]:
        state = states[cell["cell"]]
        table.add_row(
            cell["cell"],
            cell["run_id"] or cell["eval_id"] or cell["search_id"],
            f"{cell['parameters']:,}",
            f"{cell['flops'] / 1e9:,.3f}",
            f"{cell['max_steps']:,}" if cell["max_steps"] else "",
            Text(state.describe(), style=STYLES[state.state]),
        )
    console.print(table)
    what = "timed without training" if plan.is_timed else f"{found['trainings']} trainings"
    lines = [f"{len(found['cells'])} cells, {what}. {summary(states)}"]
    for item in found["excluded"]:
        lines.append(f"Left out: {', '.join(f'{k}={v}' for k, v in item['labels'].items())}: {item['reason']}")
    for left, right in found["duplicates"]:
        lines.append(f"Note: {right} is the same as {left}; it is run once.")
    if (estimate := found["cost"]) and estimate["trainings"]:
        time = duration(3600 * estimate["device_hours"])
        lines.append(f"Still to train: {estimate['trainings']}, {time} (h:mm:ss) on one device, {estimate['basis']}.")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def preview_json(plan: Plan) -> str:
    """The plain data as text."""
    return json.dumps(preview(plan), indent=2, ensure_ascii=False)
