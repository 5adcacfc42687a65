"""Weights that trainings of a sweep start from: looked at once, before anything is begun; found from any folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from experiments.config import load_config
from experiments.errors import UserError
from experiments.identity import run_id
from experiments.lineage import FileStart
from experiments.networks import build_network
from experiments.run_config import RunConfig
from experiments.store import RunStore
from lightning_modules.checkpoints import save_safetensors
from sweeps import actions, views
from sweeps.planner import plan
from tests.sweeps.conftest import PRESET, WORKER
from tests.sweeps.steps import WIDTH, Make, axis, states

LR = axis("lr", "optim.lr", 0.1, 0.2)
WORDS = ["trainer.init_from=start.safetensors"]
ELSEWHERE = """
import os, runpy, sys
from pathlib import Path
from experiments.config import read_config
os.chdir("/")
for path in sys.argv[2:]:
    read_config(Path(path), trains=True)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A worker in another folder, which looks up what it starts from."""


@pytest.fixture
def here(tmp_path: Path, make_sweep: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with start.safetensors, weights for networks 32 wide."""
    folder = tmp_path / "here"
    folder.mkdir()
    config = plan(make_sweep("other", axes=[LR], report={})).cells[0].config
    save_safetensors(folder / "start.safetensors", build_network(config).state_dict(), {})
    monkeypatch.chdir(folder)
    return folder


def test_a_relative_start_is_the_planning_commands_in_the_worker_too(make_sweep: Make, here: Path, root: Path) -> None:
    path = make_sweep(axes=[LR], report={})
    planned = plan(path, "", WORDS)
    assert actions.run(path, overrides=WORDS, worker=(sys.executable, "-c", ELSEWHERE, WORKER[1])) == 0
    for cell in planned.cells:
        config = RunStore(root).run(cell.run_id).config()
        assert config.trainer.init_from == str(here / "start.safetensors")


def test_a_start_that_does_not_fit_is_refused_before_anything_is_begun(
    make_sweep: Make, here: Path, root: Path, trainings: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_sweep(axes=[WIDTH], report={})
    said = "Cell width=64: trainer.init_from=start.safetensors: The table of positions"
    with pytest.raises(UserError, match=said):
        actions.run(path, overrides=WORDS, worker=WORKER)
    assert trainings() == [] and not (root / "sweeps").exists() and not (root / "runs").exists()
    assert actions.run(path, overrides=WORDS, dry_run=True) == 0
    assert f"would be refused as it stands: {said}" in capsys.readouterr().out
    assert views.show_plan(path, overrides=WORDS) == 0
    assert f"`ablate run` would refuse it as it stands: {said}" in capsys.readouterr().out
    assert views.show_plan(path, overrides=WORDS, as_json=True) == 0
    (refused,) = json.loads(capsys.readouterr().out)["refused"]
    assert refused.startswith(said)


def test_a_start_that_lacks_what_it_is_trained_on_is_refused_before_anything_is_begun(
    make_sweep: Make, root: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start.yaml"
    start.write_text(yaml.safe_dump({**PRESET, "data": {"subset": 2}}))
    with pytest.raises(
        UserError, match="Cell lr=0.1: trainer.init_from=.*start.yaml is trained first, .* than the 2 there are"
    ):
        actions.run(make_sweep(axes=[LR], report={}), overrides=[f"trainer.init_from={start}"], worker=WORKER)
    assert not (root / "sweeps").exists() and not (root / "runs").exists()


def test_a_start_is_looked_at_once_for_equal_networks_and_not_when_they_are_trained(
    make_sweep: Make, here: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[RunConfig] = []
    monkeypatch.setattr(FileStart, "check", lambda start, config: checked.append(config))
    path = make_sweep(axes=[LR], report={})
    assert actions.run(path, overrides=[*WORDS, "seeds=0,1"], worker=WORKER) == 0
    assert len(checked) == 1 and len(list((root / "runs").iterdir())) == 4
    for result in (root / "runs").glob("*/evaluations/*/result.json"):
        result.unlink()
    assert actions.run(path, overrides=[*WORDS, "seeds=0,1"], worker=WORKER) == 0
    assert len(checked) == 1
    assert set(states(path).values()) == {"missing"}, "which start from nothing"


def test_a_value_that_starts_from_nothing_does_so_whatever_is_typed(make_sweep: Make, here: Path) -> None:
    sweep, words = "dimba-quality-tuning", ["text_encoder.text_tokens=300"]
    none, *tuned = plan(sweep, "paper", [*words, *WORDS]).cells
    assert none.labels["images"] == "none" and not none.config.trainer.init_from
    assert none.run_id == run_id(load_config("dimba/l", words)), "the run that the others are to start from"
    assert len(tuned) == 6 and all(cell.config.trainer.init_from == WORDS[0].partition("=")[2] for cell in tuned)
    starts = make_sweep(axes=[axis("start", "trainer.init_from", "", "other.safetensors")], report={})
    with pytest.raises(UserError, match="trainer.init_from is what sweep tiny varies"):
        plan(starts, "", WORDS)
