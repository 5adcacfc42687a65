"""Real trainings on a real Slurm: interrupted, requeued, distributed, and equal to the last bit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from experiments.store import Run, RunStore
from sweeps import actions
from sweeps.planner import plan
from sweeps.submissions import read_submissions
from tests.sweeps.slurm_cluster import Cluster

pytestmark = [pytest.mark.usefixtures("slurm_here"), pytest.mark.slow]
LOCAL = """import sys
from sweeps import actions
actions.run(sys.argv[1], root=sys.argv[2], overrides=["runtime.threads=1"])
"""
ONE = [{"name": "scheme", "key": "generator.hybrid_scheme", "values": ["serial_v2"]}]


@pytest.fixture
def sweep(tmp_path: Path, make_sweep: Callable[..., str]) -> Iterator[str]:
    """A real training of a few seconds, on one thread."""
    preset = tmp_path / "real.yaml"
    sections = {
        "data": {"name": "emoji", "subset": 64},
        "generator": {"width": 32, "heads": 2, "depth": 2},
        "trainer": {"max_steps": 400, "batch_size": 16, "ema_decay": 0.9},
        "evaluation": {"num_samples": 18},
        "sampler": {"steps": 2},
        "runtime": {"log_every": 10, "val_every": 1000, "sample_every": 1000, "checkpoint_every": 50, "device": "cpu"},
    }
    preset.write_text(yaml.safe_dump(sections))
    # The test cluster's node names do not resolve, unlike a real one's.
    resources = {"cpus": 1, "setup": ["export MASTER_ADDR=127.0.0.1"]}
    yield make_sweep(axes=ONE, report={}, scales={"demo": {"preset": str(preset), "resources": resources}})


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of tokenized images that the tests share."""
    return tmp_path_factory.mktemp("cache")


def run_of(path: str, root: Path, *words: str) -> Run:
    return RunStore(root).run(plan(path, "demo", words, root).cells[0].run_id)


def test_a_requeued_training_ends_with_the_same_bits(
    cluster: Cluster,
    sweep: str,
    root: Path,
    tmp_path: Path,
    tokens: Path,
) -> None:
    for folder in (root, tmp_path / "undisturbed"):
        folder.mkdir(exist_ok=True)
        (folder / "cache").symlink_to(tokens)
    undisturbed, run = run_of(sweep, tmp_path / "undisturbed"), run_of(sweep, root)
    assert actions.run(sweep, launcher="slurm") == 0
    cluster.wait_until(lambda: 20 < run.inspect().step < 200, "did not get going")
    job = f"{read_submissions(plan(sweep).folder)[0].job}_0"
    cluster.call("scancel", "--batch", "--signal=USR1", job)  # as the time limit's warning does
    reference = subprocess.Popen([sys.executable, "-c", LOCAL, sweep, str(tmp_path / "undisturbed")])
    cluster.wait_until(lambda: run.attempts == 2, "was not requeued after the warning")
    stopped = run.inspect().step
    cluster.wait_until(lambda: stopped + 50 < run.inspect().step < 380, "did not go on")
    cluster.call("scontrol", "requeue", job)
    cluster.wait_until(run.is_done, "did not go on after the requeue")
    assert reference.wait(timeout=300) == 0
    ours, theirs = (load_file(item.final_weights) for item in (run, undisturbed))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    steps = [line["step"] for line in run.metrics() if "train/loss" in line]
    assert steps == [line["step"] for line in undisturbed.metrics() if "train/loss" in line]
    result = run.result()
    assert result and result["provenance"]["attempts"] == 3 and result["provenance"]["snapshot"]


def test_two_nodes_train_one_run(
    cluster: Cluster,
    sweep: str,
    root: Path,
    tmp_path: Path,
    tokens: Path,
) -> None:
    """DDP, and FSDP that is requeued half way, come to the same weights."""
    words = ["resources.nodes=2", "trainer.max_steps=60", "runtime.checkpoint_every=10"]
    sharded = tmp_path / "sharded"
    for folder in (root, sharded):
        folder.mkdir(exist_ok=True)
        (folder / "cache").symlink_to(tokens)
    assert actions.run(sweep, overrides=words, launcher="slurm") == 0
    assert actions.run(sweep, overrides=[*words, "runtime.strategy=fsdp"], root=sharded, launcher="slurm") == 0
    runs = {"ddp": run_of(sweep, root, *words), "fsdp": run_of(sweep, sharded, *words)}
    job = f"{read_submissions(plan(sweep, 'demo', words, sharded).folder)[0].job}_0"
    cluster.wait_until(lambda: 10 < runs["fsdp"].inspect().step < 50, "did not get going")
    cluster.call("scontrol", "requeue", job)
    ended = ("done", "failed")
    cluster.wait_until(lambda: all(run.inspect().state in ended for run in runs.values()), "no end")
    for strategy, run in runs.items():
        result = run.result()
        assert result, "\n".join(log.read_text() for log in tmp_path.glob("*/sweeps/*/logs/slurm-*.log"))
        kept = result["provenance"]
        assert (kept["strategy"], kept["processes"]) == (strategy, 2)
        assert kept["attempts"] == (2 if strategy == "fsdp" else 1)
        assert [line["step"] for line in run.metrics() if "train/loss" in line] == list(range(10, 61, 10))
    assert "NumNodes=2 NumCPUs=2 NumTasks=2" in cluster.call("scontrol", "show", "job", job)
    whole, shared = (load_file(run.final_weights) for run in runs.values())
    assert whole.keys() == shared.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(shared[name], weight, rtol=1e-4, atol=1e-5)
