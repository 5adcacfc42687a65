"""Presets of one's own in a sweep: found beside its file from any folder, and kept for when the files move."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.errors import UserError
from sweeps.definition import load_sweep, read_sweep
from sweeps.planner import plan
from sweeps.registry import begun, definition_of, register

SWEEP = """\
name: mine
title: Mine
reproduces: Nothing.
scales:
  demo:
    preset: presets of mine/low.yaml
    cells: [{when: {flip: true}, preset: ../shared/low.yaml}]
axes:
  - {name: flip, key: data.flip, values: [true, false]}
report: {rows: flip, columns: [val/loss]}
"""


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A sweep with two presets of the same file name, one of them above its folder, on a base of its own."""
    folder = tmp_path / "project" / "sweeps"
    (folder / "presets of mine").mkdir(parents=True)
    (folder.parent / "shared").mkdir()
    (folder / "mine.yaml").write_text(SWEEP)
    (folder / "presets of mine" / "low.yaml").write_text("base: base.yaml\ntrainer: {max_steps: 7}\n")
    (folder / "presets of mine" / "base.yaml").write_text("base: maskmamba/demo\noptim: {lr: 0.5}\n")
    (folder.parent / "shared" / "low.yaml").write_text("base: maskmamba/demo\ntrainer: {max_steps: 9}\n")
    return folder


def settings(file: str) -> dict[str, tuple[str, int, float]]:
    configs = {cell.name: cell.config for cell in plan(file, "demo").cells}
    return {name: (cell.generator.name, cell.trainer.max_steps, cell.optim.lr) for name, cell in configs.items()}


def test_presets_lie_beside_the_sweep_and_are_kept(
    root: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = plan(str(project / "mine.yaml"), "demo")
    found = settings(str(project / "mine.yaml"))
    assert sorted(steps for _, steps, _ in found.values()) == [7, 9]
    assert {lr for _, steps, lr in found.values() if steps == 7} == {0.5}
    register(made)
    project.parent.rename(tmp_path / "moved")
    read_sweep.cache_clear()
    (record,) = begun(root)
    copy = definition_of(record)
    assert Path(copy).is_relative_to(root) and settings(copy) == found
    assert [cell.run_id for cell in plan(copy, "demo").cells] == [cell.run_id for cell in made.cells]


def test_presets_of_the_working_directory_are_found_too(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "presets of mine").rename(tmp_path / "presets of mine")
    with pytest.raises(UserError, match=f"Cannot read preset {project / 'presets of mine' / 'low.yaml'}"):
        plan(str(project / "mine.yaml"), "demo")
    read_sweep.cache_clear()
    monkeypatch.chdir(tmp_path)
    sweep = load_sweep(str(project / "mine.yaml"))
    assert sweep.config.scales["demo"].preset == str(tmp_path / "presets of mine" / "low.yaml")
