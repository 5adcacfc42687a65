"""`ablate plan`: exact counts, what is left out, what it will cost."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from experiments.config import load_config
from experiments.model_facts import ModelFacts, build_facts
from experiments.store import RunStore
from lightning_modules.generators.config import GENERATORS
from sweeps import actions, cache, views
from sweeps.definition import sweep_names
from sweeps.fact_book import FactBook
from sweeps.planner import plan
from sweeps.preview import preview, print_preview
from tests.experiments.configs import small_config
from tests.sweeps.conftest import PRESET
from tests.sweeps.steps import Make

WIDTH = [{"name": "width", "key": "generator.width", "values": [32, 64]}]


def test_parameters_are_those_of_the_model() -> None:
    config = small_config()
    model = GENERATORS.build(config.generator)
    assert build_facts(config).parameters == sum(p.numel() for p in model.parameters())


def test_flops_of_linear_layers_grow_with_the_square_of_the_width() -> None:
    facts = [build_facts(small_config(generator__width=width, generator__mixer="attention")) for width in (256, 512)]
    assert 3.0 < facts[1].flops / facts[0].flops < 4.0
    config = small_config()
    assert build_facts(config).training_flops(config) == 3 * build_facts(config).flops * 128 * 10


def test_facts_are_remembered(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = FactBook(root).facts(small_config())
    monkeypatch.setattr("sweeps.fact_book.build_facts", lambda config: pytest.fail("built again"))
    assert FactBook(root).facts(small_config(seed=3, optim__lr=1.0)) == first


@pytest.mark.parametrize("source", ["lightning_modules/layers/ssm.py", "experiments/benchmarks/cells/layer.py"])
def test_facts_are_built_again_after_an_edit(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    for package in cache.PACKAGES:
        (tmp_path / package).mkdir()
    file = tmp_path / source
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr(cache, "PROJECT", tmp_path)
    monkeypatch.setattr("sweeps.fact_book.source_stamp", cache.source_stamp.__wrapped__)  # looked up every time
    built = [ModelFacts(1, 1), ModelFacts(2, 2)]
    monkeypatch.setattr("sweeps.fact_book.build_facts", lambda config: built.pop(0))
    for parameters in (1, 1, 2, 2):
        if len(built) == 1 and parameters == 2:
            file.write_text("edited")
        assert FactBook(root).facts(small_config()).parameters == parameters


def test_plan_lists_cells_exclusions_and_duplicates(make_sweep: Make, capsys: pytest.CaptureFixture[str]) -> None:
    exclude = [{"when": {"width": 64}, "reason": "too large"}]
    path = make_sweep(axes=WIDTH, exclude=exclude, report={})
    assert views.show_plan(path, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert [cell["cell"] for cell in found["cells"]] == ["width=32"] and isinstance(
        found["cells"][0]["parameters"], int
    )
    assert found["excluded"] == [{"labels": {"width": "64"}, "reason": "too large"}] and found["refused"] == []
    assert views.show_plan(path) == 0
    assert "Left out: width=64: too large" in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_cuts_no_number_and_no_id(width: int, root: Path) -> None:
    made = plan("maskmamba-backbones", "paper")
    screen = Console(width=width, file=io.StringIO(), highlight=False)
    print_preview(made, screen)
    shown = screen.file.getvalue().split()
    for cell in preview(made)["cells"]:
        wanted = (cell["cell"], cell["run_id"], f"{cell['parameters']:,}", f"{cell['max_steps']:,}", cell["state"])
        assert set(wanted) <= set(shown)


@pytest.mark.parametrize("width", [80, 160])
def test_the_list_of_sweeps_cuts_no_name_and_no_state(
    width: int, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(views, "console", lambda: Console(width=width))
    views.list_sweeps(root)
    out = capsys.readouterr().out
    assert set(sweep_names()) <= set(out.split()) and out.count("not begun") == len(sweep_names())


def test_cost_is_assumed_for_gpus_and_measured_once_a_run_is_done(make_sweep: Make, root: Path) -> None:
    path = make_sweep(axes=WIDTH, report={})
    assert preview(plan(path))["cost"] is None
    planned = plan(path, "demo", ["resources.gpus=1", "resources.peak_tflops=100", "resources.efficiency=0.5"])
    cost = preview(planned)["cost"]
    assert cost["trainings"] == 2 and cost["basis"].startswith("assumed")
    assert cost["device_hours"] == pytest.approx(cost["flops"] / 50e12 / 3600)
    run = RunStore(root).prepare(planned.cells[0].config)
    with run.claim():
        run.write_result({"step": 10, "max_steps": 10, "metrics": {}, "train_seconds": 36.0})
    cost = preview(plan(path))["cost"]
    ratio = build_facts(planned.cells[1].config).flops / build_facts(planned.cells[0].config).flops
    assert cost["trainings"] == 1 and cost["basis"].startswith("measured")
    assert cost["device_hours"] == pytest.approx(0.01 * ratio)


def test_slow_trainings_weigh_in_the_measured_speed_by_the_time_they_take(make_sweep: Make, root: Path) -> None:
    """One at a tenth of the other's speed: as much again, of both, takes as long again as the two together."""
    planned = plan(make_sweep(axes=WIDTH, report={}), "demo", ["seeds=0,1"])
    flops, seconds = 0.0, 0.0
    for cell, speed in zip((cell for cell in planned.cells if cell.seed == 0), (1e9, 1e10), strict=True):
        done = build_facts(cell.config).training_flops(cell.config)
        run = RunStore(root).prepare(cell.config)
        with run.claim():
            run.write_result({"step": 10, "max_steps": 10, "metrics": {}, "train_seconds": done / speed})
        flops, seconds = flops + done, seconds + done / speed
    cost = preview(planned)["cost"]
    assert cost["trainings"] == 2 and cost["flops"] == flops
    assert cost["device_hours"] == pytest.approx(seconds / 3600)


def test_a_measured_speed_is_that_of_one_device_of_a_job(make_sweep: Make, root: Path) -> None:
    planned = plan(make_sweep(axes=WIDTH, report={}), "demo", ["resources.gpus=8", "resources.nodes=4"])
    assumed, resources = preview(planned)["cost"], planned.request.resources
    cell, speed = planned.cells[0], resources.peak_tflops * 1e12 * resources.efficiency
    seconds = build_facts(cell.config).training_flops(cell.config) / speed / 32
    run = RunStore(root).prepare(cell.config)
    with run.claim():
        done = {"step": 10, "max_steps": 10, "metrics": {}}
        run.write_result({**done, "train_seconds": seconds, "provenance": {"processes": 32}})
    cost = preview(planned)["cost"]
    assert cost["basis"].startswith("measured")
    assert cost["flops"] / cost["device_hours"] == pytest.approx(assumed["flops"] / assumed["device_hours"])


def make_preset(folder: Path, name: str, start: str) -> str:
    """Write a preset whose run starts from `start`, and return its file."""
    raw = {**PRESET, "trainer": {**PRESET["trainer"], "init_from": start}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(raw))
    return str(folder / f"{name}.yaml")


def test_parents_have_lines_cost_and_state_of_their_own(
    make_sweep: Make, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ""
    for name in ("first", "second", "third"):
        start = make_preset(tmp_path, name, start)
    axes = [{"name": "lr", "key": "optim.lr", "values": [0.1, 0.2]}]
    path = make_sweep(axes=axes, report={}, scales={"demo": {"preset": str(tmp_path / "third.yaml"), "seeds": [0]}})
    words = ["resources.gpus=1"]
    found = preview(plan(path, "demo", words))
    assert [Path(parent["parent"]).stem for parent in found["parents"]] == ["first", "second"]
    assert found["parents"][1]["needed_by"] == ["lr=0.1", "lr=0.2"] and found["parents"][0]["parameters"] > 0
    assert found["trainings"] == 2 and found["cost"]["trainings"] == 4
    run = RunStore(root).prepare(load_config(str(tmp_path / "first.yaml")))
    with run.claim():
        run.write_result({"step": 10, "max_steps": 10, "metrics": {}})
    after = preview(plan(path, "demo", words))
    assert [parent["state"] for parent in after["parents"]] == ["done", "missing"]
    assert after["cost"]["flops"] == found["cost"]["flops"] * 3 / 4
    assert views.show_plan(path) == 0 and "(first)" in capsys.readouterr().out
    assert actions.run(path, dry_run=True) == 0
    told = capsys.readouterr().out
    assert "would use" in told and "would start first" in told and "would start  lr=0.1" in told


def test_what_a_finished_parent_started_from_may_be_gone(make_sweep: Make, root: Path, tmp_path: Path) -> None:
    preset = make_preset(tmp_path, "first", "")
    second = RunStore(root).prepare(load_config(make_preset(tmp_path, "second", preset)))
    third = make_preset(tmp_path, "third", second.id)
    path = make_sweep(report={}, scales={"demo": {"preset": third, "seeds": [0]}})
    found = preview(plan(path, "demo", ["resources.gpus=1"]))
    assert [Path(parent["parent"]).stem for parent in found["parents"]] == ["first", second.id]
    with second.claim():
        second.write_result({"step": 10, "max_steps": 10, "metrics": {}})
    Path(preset).unlink()
    found = preview(plan(path, "demo", ["resources.gpus=1"]))
    assert [(parent["parent"], parent["state"]) for parent in found["parents"]] == [(second.id, "done")]


def test_a_training_that_searches_share_counts_once(make_sweep: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """Each sampler has a search of its own, over one and the same training."""
    samplers = [{"name": "sampler", "key": "sampler.name", "values": ["maskgit", "halton"]}]
    search = {"space": [{"key": "sampler.guidance", "low": 1.0, "high": 9.0}]}
    resources = {"gpus": 1}
    scales = {"demo": {"preset": "", "resources": resources}}
    path = make_sweep("shared", axes=samplers, search=search, scales=scales, report={})
    shared = plan(path)
    assert (
        views.show_plan(path) == 0
        and "2 cells, 1 trainings, 2 searches of 12 evaluations each." in capsys.readouterr().out
    )
    assert len(shared.groups()) == 2 and len({cell.run_id for cell in shared.cells}) == 1
    apart = preview(plan(make_sweep("apart", axes=samplers, scales=scales, report={})))["cost"]
    assert preview(shared)["cost"] == apart and apart["trainings"] == 1
    trained = {"space": [{"key": "optim.lr", "low": 0.1, "high": 0.9}], "trials": 3}
    path = make_sweep("trained", axes=samplers, search=trained, scales=scales, report={})
    searched = preview(plan(path))["cost"]
    assert views.show_plan(path) == 0 and "2 trainings, 2 searches of 3 trainings each." in capsys.readouterr().out
    assert searched["trainings"] == 2 and searched["flops"] == 6 * apart["flops"], "where every trial is one, none is"
