"""A tiny run, trained once for all tests of what comes after training."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import shards
from experiments.owners import Owner
from tests.experiments.configs import COUNT, config_in, finished, run_under

STEPS = 60
TINY = [
    "data.styles=[twemoji]",
    "data.flip=true",
    "generator.width=16",
    "generator.depth=2",
    "generator.heads=2",
    "generator.dropout=0.1",
    f"trainer.max_steps={STEPS}",
    "trainer.batch_size=8",
    "trainer.ema_decay=0.9",
    "runtime.log_every=1",
    "runtime.val_every=25",
    "runtime.sample_every=40",
    "runtime.checkpoint_every=7",
    "runtime.threads=1",
    "sampler.steps=2",
]
DRAWN = ["sampler.steps=2", "runtime.threads=1"]
QUICK = [*DRAWN, "evaluation.num_samples=36"]


def tiny(*extra: str) -> list[str]:
    """The words of the tiny run, with `extra` ones, which stand in place of its own for the same keys."""
    keys = {word.partition("=")[0] for word in extra}
    return [*(word for word in TINY if word.partition("=")[0] not in keys), *extra]


def train_command(root: Path, *extra: str) -> list[str]:
    """The command that trains the tiny run under `root`."""
    words = tiny(f"runtime.root={root}", *extra)
    return [sys.executable, "-m", "experiments.cli", "train", "maskmamba/demo", *words]


def train(root: Path, *extra: str) -> subprocess.CompletedProcess:
    """Train the tiny run in a process of its own."""
    return subprocess.run(train_command(root, *extra), capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root that a run was trained under without interruption."""
    root = tmp_path_factory.mktemp("undisturbed")
    done = train(root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def trained(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of a module's own with that run."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(undisturbed, root, dirs_exist_ok=True)
    return root


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one run of `config_in` that passes for trained: random weights and a result."""
    root = tmp_path_factory.mktemp("random")
    finished(config_in(root))
    return root


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are drawn in parts of 8: of COUNT, three parts, the last one shorter."""
    monkeypatch.setattr(shards, "SHARD", 8)


@pytest.fixture
def undivided(random_weights: Path, tmp_path: Path) -> np.ndarray:
    """The images of that run (COUNT, 32, 32, 3) uint8, drawn by one process in one batch."""
    from experiments.export import export_samples

    config, run = config_in(random_weights, COUNT), run_under(random_weights)
    (path,) = export_samples(config, run, "npz", tmp_path / "whole", COUNT, seed=0)
    with np.load(path) as file:
        assert path.name == f"samples_{COUNT}x32x32x3.npz" and set(file) == {"arr_0", "arr_1"}
        assert file["arr_0"].dtype == np.uint8 and file["arr_1"].tolist() == [i % 9 for i in range(COUNT)]
        return file["arr_0"]


def only_run(root: Path) -> str:
    """The id of the only run under `root`."""
    (folder,) = (root / "runs").iterdir()
    return folder.name


def elsewhere(**changes: object) -> Owner:
    """This process as another host would have it."""
    return replace(Owner.here(), host="another-host", boot="another-boot", **changes)
