"""Cells with presets of their own, and cells whose steps follow from another one's training FLOPs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.errors import UserError
from experiments.model_facts import build_facts
from sweeps.fact_book import FactBook
from sweeps.planner import plan
from tests.sweeps.steps import Make

BUDGET = {"name": "budget", "values": [{"label": "steps"}, {"label": "compute"}]}
WIDTH = {"name": "width", "key": "generator.width", "values": [32, 64]}
EQUAL = {"when": {"budget": "compute"}, "to": {"budget": "steps", "width": 64}}


def steps_of(path: str, *words: str) -> dict[str, int]:
    return {cell.name: cell.max_steps for cell in plan(path, "demo", words).cells}


def test_steps_follow_from_the_training_flops_of_the_named_cell(make_sweep: Make) -> None:
    path = make_sweep(axes=[BUDGET, WIDTH], equal_compute=EQUAL, report={})
    cells = {cell.name: cell for cell in plan(path, "demo", ["trainer.max_steps=200"]).cells}
    named, narrow = cells["budget=steps,width=64"].config, cells["budget=compute,width=32"].config
    assert cells["budget=steps,width=32"].max_steps == 200
    assert cells["budget=compute,width=64"].run_id == cells["budget=steps,width=64"].run_id
    assert narrow.trainer.max_steps == cells["budget=compute,width=32"].max_steps > 300
    wanted, got = build_facts(named).training_flops(named), build_facts(narrow).training_flops(narrow)
    assert abs(got - wanted) <= build_facts(narrow).step_flops(narrow) / 2


def test_batch_sizes_count(make_sweep: Make) -> None:
    narrow = {"when": {"budget": "compute"}, "set": {"trainer.batch_size": 8}}
    scales = {"demo": {"preset": "", "cells": [narrow]}}
    equal = {**EQUAL, "to": {"budget": "steps"}}
    path = make_sweep(axes=[BUDGET, WIDTH], scales=scales, equal_compute=equal, report={})
    assert list(steps_of(path).values()) == [10, 10, 5, 5]


def test_amendments_of_either_count(make_sweep: Make) -> None:
    """A smaller batch takes more steps to the same training FLOPs; of the seed that is amended."""
    equal = {**EQUAL, "to": {"budget": "steps"}}
    path = make_sweep(axes=[BUDGET, WIDTH], equal_compute=equal, report={})
    follower, leader = "budget=compute,width=32", "budget=steps,width=64"
    small = {f"{name},seed=1": {"trainer.batch_size": 2} for name in (follower, leader)}
    steps = {c.name: c.max_steps for c in plan(path, "demo", ["seeds=0,1,2"], amendments=small).cells}
    assert [steps[f"{follower},seed={seed}"] for seed in range(3)] == [10, 20, 10]
    assert [steps[f"{leader},seed={seed}"] for seed in range(3)] == [10, 10, 10]
    assert [steps[f"budget=compute,width=64,seed={seed}"] for seed in range(3)] == [10, 5, 10]


def test_a_part_of_the_sweep_has_the_same_steps(make_sweep: Make) -> None:
    path = make_sweep(axes=[BUDGET, WIDTH], equal_compute=EQUAL, report={})
    name = "budget=compute,width=32"
    assert steps_of(path, "width=32", "budget=compute") == {name: steps_of(path)[name]}


def test_cells_of_a_scale_have_presets_and_settings(make_sweep: Make, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"tokenizer": {"weights": ""}, "generator": {"heads": 4, "depth": 6}}))
    cells = [
        {"when": {"width": [32, 64]}, "set": {"optim.lr": 0.25, "optim.warmup_steps": 7}},
        {"when": {"width": 64}, "preset": str(other), "set": {"optim.lr": 0.5}},
    ]
    scales = {"demo": {"preset": "", "overrides": {"optim.lr": 0.1, "seed": 0}, "cells": cells}}
    path = make_sweep(axes=[WIDTH], scales=scales, report={})
    configs = [cell.config for cell in plan(path, "demo", ["optim.warmup_steps=9"]).cells]
    assert [(c.generator.width, c.generator.depth) for c in configs] == [(32, 2), (64, 6)]
    assert [c.optim.lr for c in configs] == [0.25, 0.5]
    assert [c.optim.warmup_steps for c in configs] == [9, 9], "what is typed goes over the definition"


def test_head_to_head_is_equal_in_what_it_says(root: Path) -> None:
    """Parameters within 3% of their middle; training FLOPs within a step."""
    book, sizes, budgets = FactBook(root), [], []
    for cell in plan("head-to-head").cells:
        facts = book.facts(cell.config)
        if cell.labels["protocol"] == "compute":
            budgets.append(facts.training_flops(cell.config))
        sizes.append(facts.parameters)
    assert max(sizes) / min(sizes) < 1.03 / 0.97
    assert len(budgets) == 8 and max(budgets) / min(budgets) < 1.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"equal_compute": {"when": {"budget": "compute"}, "to": {"width": 64}}}, "to must name another cell"),
        ({"equal_compute": {**EQUAL, "when": {"budget": "flops"}}}, "value of axis 'budget'"),
        ({"equal_compute": EQUAL, "scales": {"demo": {"preset": "", "only": {"width": [32]}}}}, "no cell"),
        ({"scales": {"demo": {"preset": "", "cells": [{"when": {"size": 1}}]}}}, "Unknown axis 'size'"),
    ],
)
def test_mistakes_are_named(make_sweep: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(make_sweep(axes=[BUDGET, WIDTH], report={}, **changes))
