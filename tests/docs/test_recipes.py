"""docs/extending.md followed to the letter: every diff applies, is short, and its commands do what they promise."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.config import load_config
from lightning_modules.config import OptimConfig
from lightning_modules.samplers.config import HaltonConfig

PROJECT = Path(__file__).parents[2]
PACKAGES = ("datamodules", "experiments", "lightning_modules", "reports", "sweeps")
SECTIONS = re.split(r"^## ", (PROJECT / "docs" / "extending.md").read_text(), flags=re.MULTILINE)[1:]
PRESET, *DIFFS = SECTIONS
RECIPES = {section.splitlines()[0]: section for section in DIFFS}
SMALL = "generator.width=20 generator.depth=2 trainer.max_steps=2 trainer.batch_size=8 runtime.sample_every=0"
APPENDED = {
    "train": f"{SMALL} runtime.val_every=2 sampler.steps=2 runtime.threads=1",
    "evaluate": "evaluation.num_samples=36 sampler.steps=2 runtime.threads=1",
}
"""What makes a command of the page small; `ablate run` is left to the tests of sweeps."""
DRIVER = """
import json, sys
from experiments.cli import main
for words in json.load(sys.stdin):
    print("$", *words, flush=True)
    try:
        main(words)
    except SystemExit as end:
        if end.code:
            raise
"""


def _blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def _commands(section: str) -> list[list[str]]:
    lines = [line.split() for block in _blocks(section, "bash") for line in block.splitlines()]
    return [words[1:] for words in lines if words[1] != "run"]


def _small(words: list[str]) -> list[str]:
    """A command of the page with what is appended, in place of its own words for the same keys."""
    more = APPENDED.get(words[0], "").split()
    keys = {word.partition("=")[0] for word in more}
    return [*(word for word in words if word.partition("=")[0] not in keys), *more]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code with every recipe applied, in the order of the page."""
    tree = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(PROJECT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for section in RECIPES.values():
        (diff,) = _blocks(section, "diff")
        subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=tree, check=True)
    return tree


def _run(tree: Path, commands: list[list[str]]) -> str:
    environment = {**os.environ, "ABLATE_ROOT": str(tree / "outputs"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=tree,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_has_the_five_recipes() -> None:
    assert list(RECIPES) == ["A mixer", "A hybrid scheme", "A sweep", "A generator", "A metric"]


def test_the_preset_is_one(tmp_path: Path) -> None:
    (text,) = _blocks(PRESET, "yaml")
    (tmp_path / "mine.yaml").write_text(text)
    mine, base = load_config(str(tmp_path / "mine.yaml")), load_config("maskmamba/demo")
    assert (mine.generator.depth, mine.trainer.max_steps, mine.sampler) == (10, 800, HaltonConfig())
    assert mine.optim == base.optim != OptimConfig(), "what is not named is as in the base"


@pytest.mark.parametrize("name", RECIPES)
def test_every_diff_is_under_forty_lines_and_applies_alone(name: str) -> None:
    (diff,) = _blocks(RECIPES[name], "diff")
    assert len(diff.splitlines()) < 40
    subprocess.run(["git", "apply", "--check", "-"], input=diff, text=True, cwd=PROJECT, check=True)


def test_the_commands_work_as_printed(tree: Path) -> None:
    commands = [_small(words) for section in RECIPES.values() for words in _commands(section)]
    run = "maskconv"  # the only run whose id begins so
    out = _run(tree, [[run if word == "RUN" else word for word in words] for words in commands])
    mixer, scheme, sweep, generator, evaluation, metric = out.split("$ ")[1:]
    assert re.search(r"^maskmamba-\w{8}: 2 steps", mixer, re.MULTILINE)
    assert re.search(r"^maskmamba-\w{8}: 2 steps", scheme, re.MULTILINE)
    assert sweep.count("mixer=gated_conv") == 3 and "9 cells, 9 trainings" in sweep
    assert re.search(r"^maskconv-\w{8}: 2 steps", generator, re.MULTILINE)
    assert "FD-EffLite0" in evaluation
    assert re.search(r"^Sharpness +\d\S* +\d", metric, re.MULTILINE), "its value, and that of real images"
