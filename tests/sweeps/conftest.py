"""A small sweep, a folder of outputs, and a worker without torch."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from experiments import slurm
from tests.sweeps.slurm_cluster import Cluster, missing

PRESET = {
    "tokenizer": {"weights": ""},
    "generator": {"width": 32, "heads": 2, "depth": 2},
    "trainer": {"max_steps": 10, "batch_size": 4},
    "evaluation": {"num_samples": 4},
}
SWEEP = {
    "name": "tiny",
    "title": "A sweep for tests",
    "reproduces": "Nothing.",
    "paper": {"system": "None"},
    "scales": {"demo": {"preset": "", "seeds": [0]}, "small": {"preset": "", "seeds": [0, 1]}},
    "axes": [{"name": "scheme", "key": "generator.hybrid_scheme", "values": ["group_v1", "serial_v1", "serial_v2"]}],
    "report": {"rows": "scheme", "columns": ["fd_efflite0"], "baseline": {"scheme": "serial_v2"}},
}
WORKER = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of outputs."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    monkeypatch.setenv("ABLATE_ROOT", str(folder))
    monkeypatch.setenv("FAKE_WORKER_LOG", str(tmp_path / "trainings.txt"))
    return folder


@pytest.fixture
def make_sweep(tmp_path: Path, root: Path) -> Callable[..., str]:
    """Write a definition like `SWEEP` with other keys; returns its path."""

    def make(name: str = "tiny", **changes: object) -> str:
        preset = tmp_path / "preset.yaml"
        preset.write_text(yaml.safe_dump(PRESET))
        definition = {**json.loads(json.dumps(SWEEP)), "name": name, **json.loads(json.dumps(changes))}
        for scale in definition["scales"].values():
            scale["preset"] = scale["preset"] or str(preset)
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(definition, sort_keys=False))
        return str(path)

    return make


@pytest.fixture
def behave(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set what the fake worker does; see fake_worker.py."""

    def behave(**behaviour: object) -> None:
        monkeypatch.setenv("FAKE_WORKER", json.dumps(behaviour))

    return behave


@pytest.fixture
def trainings(tmp_path: Path) -> Callable[[], list[str]]:
    """The schemes whose training was begun or continued, in order."""

    def read() -> list[str]:
        path = tmp_path / "trainings.txt"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    return read


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Slurm of two nodes, for all tests of the launcher."""
    if missing():
        pytest.skip(missing())
    started = Cluster(Path(tempfile.mkdtemp(prefix="ablate-slurm-")))
    yield started
    started.stop()


@pytest.fixture
def slurm_here(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands and the launcher talk to the private cluster; queries are not remembered between steps of a test."""
    for name in list(os.environ):
        if name.startswith(("SLURM", "SBATCH", "SRUN")):
            monkeypatch.delenv(name)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "_ended", {})  # another cluster counts its jobs from 1 again
    monkeypatch.setattr(slurm, "_not_ended", {})
    original = slurm.job_states
    monkeypatch.setattr(slurm, "job_states", lambda max_age=0.0: original(0.0))
    slurm.cluster_name.cache_clear()
    yield
    slurm.cluster_name.cache_clear()
    cluster.call("scancel", "--user", os.environ.get("USER", "root"))
