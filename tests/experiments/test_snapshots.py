"""Weights kept on the way: they are those of their step, and an evaluation of them says which they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from experiments.config import load_config
from experiments.errors import UserError
from experiments.evaluation import evaluate
from experiments.export import export_samples
from experiments.identity import run_id
from experiments.run import train
from experiments.snapshots import snapshot_steps
from experiments.stopping import Stopped
from reports.records import record_of
from tests.experiments.configs import small_config, tiny_preset

SAMPLES = {"num_samples": 6, "bootstrap": 0}


class Watch(L.Callback):
    """Notes the averaged weights after each step; ends the process at one of them, behind its checkpoint."""

    def __init__(self, stop: int = 0):
        self.stop, self.seen = stop, dict[int, dict[str, torch.Tensor]]()

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        self.seen[trainer.global_step] = {k: v.clone() for k, v in module.sampling_model.state_dict().items()}
        if self.stop and trainer.global_step == self.stop:
            raise Stopped("SIGTERM")


def test_they_are_the_weights_of_their_steps_and_measured_as_such(tmp_path: Path) -> None:
    preset = tiny_preset(tmp_path, "run", trainer={"max_steps": 5, "snapshots": 3}, evaluation=SAMPLES)
    end, first, second = (load_config(preset, [f"evaluation.snapshot={which}"]) for which in range(3))
    assert snapshot_steps(end) == (2, 4) and run_id(end) == run_id(second)
    watch = Watch()
    run = train(end, callbacks=[watch])
    for step in (2, 4):
        kept = load_file(run.snapshot(step))
        assert kept.keys() == watch.seen[step].keys()
        assert all(torch.equal(kept[name], watch.seen[step][name]) for name in kept)
    evaluations = [evaluate(config, run) for config in (end, first, second)]
    images = [np.load(evaluation.samples_path)["arr_0"] for evaluation in evaluations]
    assert not np.array_equal(images[0], images[1]) and not np.array_equal(images[1], images[2])
    result, records = run.result(), [record_of(run, evaluation) for evaluation in evaluations]
    lines = {line["step"]: line["val/loss"] for line in run.metrics() if "val/loss" in line}
    assert [record.metrics["val/loss"] for record in records] == [lines[5], lines[2], lines[4]]
    assert [record.metrics["kept_step"] for record in records] == [5, 2, 4]
    assert [record.metrics["training_flops"] for record in records] == pytest.approx(
        [result["training_flops"] * share for share in (1, 0.4, 0.8)]
    )
    assert "train/loss" in records[0].metrics and "train/loss" not in records[1].metrics


def test_a_picture_is_drawn_with_them(ablate, tmp_path: Path) -> None:
    run = train(load_config(tiny_preset(tmp_path, "run", trainer={"max_steps": 4, "snapshots": 2})))
    words = ("sample", run.folder, "--count", 2, "--out")
    assert ablate(*words, tmp_path / "end.png")[0] == 0
    code, _, err = ablate(*words, tmp_path / "half.png", "evaluation.snapshot=1")
    assert code == 0, err
    assert (tmp_path / "end.png").read_bytes() != (tmp_path / "half.png").read_bytes()
    run.snapshot(2).write_bytes(run.snapshot(2).read_bytes()[:1000])
    code, _, err = ablate(*words, tmp_path / "torn.png", "evaluation.snapshot=1")
    assert code == 2 and str(run.snapshot(2)) in err and not (tmp_path / "torn.png").exists()


def test_a_folder_of_exported_samples_is_of_one_of_them(tmp_path: Path) -> None:
    preset = tiny_preset(tmp_path, "run", trainer={"max_steps": 3, "snapshots": 3})
    run = train(load_config(preset))
    for which, others in ((0, 1), (1, 2)):
        folder = tmp_path / f"of-{which}"
        export_samples(load_config(preset, [f"evaluation.snapshot={which}"]), run, "npz", folder, 4, 0)
        with pytest.raises(UserError, match="holds other samples"):
            export_samples(load_config(preset, [f"evaluation.snapshot={others}"]), run, "npz", folder, 4, 0)


def test_a_resumed_training_writes_them_again(tmp_path: Path) -> None:
    trainer = {"max_steps": 4, "snapshots": 2}
    config = load_config(tiny_preset(tmp_path, "run", trainer=trainer, runtime={"checkpoint_every": 3}))
    with pytest.raises(Stopped):
        train(config, callbacks=[Watch(stop=2)])
    folder = next((tmp_path / "out" / "runs").iterdir())
    assert (folder / "checkpoints" / "step-2.safetensors").is_file()
    (folder / "checkpoints" / "step-2.safetensors").write_bytes(b"of a trajectory that was given up")
    watch = Watch()
    kept = load_file(train(config, callbacks=[watch]).snapshot(2))
    assert all(torch.equal(kept[name], watch.seen[2][name]) for name in kept)


def test_what_was_not_kept_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evaluation.snapshot=2 must be less than trainer.snapshots=2"):
        small_config(trainer__snapshots=2, evaluation__snapshot=2)
    with pytest.raises(UserError, match="trainer.snapshots=11 must be 10 or less"):
        small_config(trainer__snapshots=11)
    with pytest.raises(UserError, match="trainer.snapshots=1 keeps nothing on the way"):
        small_config(trainer__snapshots=1)
    with pytest.raises(UserError, match="Did you mean: 'snapshots'") as caught:
        small_config(trainer__snapshot=4)
    assert "evaluation.snapshot" not in str(caught.value)
    preset = tiny_preset(tmp_path, "run", trainer={"snapshots": 2}, evaluation=SAMPLES)
    run = train(load_config(preset))
    run.snapshot(1).unlink()
    with pytest.raises(UserError, match=rf"{run.id} kept no weights at step 1"):
        evaluate(load_config(preset, ["evaluation.snapshot=1"]), run)
