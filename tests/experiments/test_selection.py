"""Runs that end with their best weights, and runs that end early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from experiments.config import load_config
from experiments.errors import UserError
from experiments.identity import run_id
from experiments.run import load_generator, train
from experiments.run_config import RunConfig
from experiments.store import Run, RunStore
from lightning_modules.checkpoints import load_safetensors
from lightning_modules.diffusion import DiffusionModule
from tests.experiments.configs import tiny_preset

STEPS = 12


def _config(folder: Path, lr: float = 0.5, **trainer: Any) -> RunConfig:
    """With a learning rate that soon makes validation worse."""
    preset = tiny_preset(
        folder,
        "tiny",
        trainer={"max_steps": STEPS, **trainer},
        optim={"lr": lr},
        generator={"learned_variance": False},
    )
    return load_config(preset)


def _result(run: Run) -> dict[str, Any]:
    return json.loads((run.folder / "result.json").read_text())


def _curve(run: Run) -> dict[int, float]:
    return {line["step"]: line["val/loss"] for line in run.metrics() if "val/loss" in line}


class Killed(Exception):
    """Stands for a kill: the run has a checkpoint and no result."""


class Kill(L.Callback):
    """Ends the process's training at a step, before or after its validation."""

    def __init__(self, step: int, before: bool):
        self.step, self.before = step, before

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.before and trainer.global_step == self.step:
            raise Killed

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not self.before and trainer.global_step == self.step:
            raise Killed


def test_the_best_weights_are_kept_and_restored(tmp_path: Path) -> None:
    config = _config(tmp_path, keep="best", max_steps=4)
    run = train(config)
    curve, result = _curve(run), _result(run)
    assert len(curve) == 4 and result["metrics"]["val/loss"] == pytest.approx(min(curve.values()), rel=1e-5)
    assert result["step"] == 4 and curve[result["kept_step"]] == min(curve.values())
    state = load_generator(config, run, torch.device("cpu")).state_dict()
    best = load_safetensors(run.checkpoints / "best.safetensors", state)
    assert all(torch.equal(best[key], value) for key, value in state.items())


def test_a_run_ends_early_says_so_and_is_done(tmp_path: Path) -> None:
    run = train(_config(tmp_path, keep="best", patience=2))
    result, curve = _result(run), _curve(run)
    best = min(curve, key=curve.__getitem__)
    assert result["step"] == max(curve) == best + 2 < STEPS == result["max_steps"]
    told = {"metric": "val/loss", "best": curve[best], "best_step": best, "patience": 2}
    assert result["stopped_early"] == told and result["kept_step"] == best
    assert run.is_done() and run.inspect().state == "done"
    before = (run.folder / "result.json").stat().st_mtime_ns
    assert (train(run.config()).folder / "result.json").stat().st_mtime_ns == before
    # A result that fell short without a reason is not done.
    del result["stopped_early"]
    (run.folder / "result.json").write_text(json.dumps(result))
    assert not run.is_done()


def test_a_run_that_gets_better_is_trained_to_its_last_step(tmp_path: Path) -> None:
    result = _result(train(_config(tmp_path, lr=1e-3, patience=2, max_steps=4)))
    assert result["step"] == result["kept_step"] == 4 and "stopped_early" not in result


@pytest.mark.parametrize("patience", [0, 1])
def test_a_training_that_ends_in_no_number_fails_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    """Losses of single batches may be finite while the average of the weights, or the whole split's loss, is not."""

    def log_nothing(module: Any) -> None:
        module.log("val/loss", torch.tensor(float("nan")))

    monkeypatch.setattr(DiffusionModule, "on_validation_epoch_end", log_nothing)
    config = _config(tmp_path, lr=1e-3, max_steps=4, patience=patience)
    with pytest.raises(FloatingPointError, match="The last validation of dimba-.* found val/loss=nan"):
        train(config)
    run = RunStore(config.root).run(run_id(config))
    assert run.inspect().cause == "nan" and not run.result_path.exists()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("back", [0, 1], ids=["at the end", "before the end"])
def test_killed_and_resumed_ends_where_it_would_have(tmp_path: Path, before: bool, back: int) -> None:
    whole = train(_config(tmp_path, keep="best", patience=2))
    (tmp_path / "b").mkdir()
    config = _config(tmp_path / "b", keep="best", patience=2)
    with pytest.raises(Killed):
        train(config, callbacks=[Kill(_result(whole)["step"] - back, before)])
    run = train(config)
    assert _curve(run) == _curve(whole)
    for key in ("step", "kept_step", "stopped_early", "metrics"):
        assert _result(run)[key] == _result(whole)[key], key
    assert run.final_weights.read_bytes()[-1000:] == whole.final_weights.read_bytes()[-1000:]


def test_patience_counts_validations_so_their_interval_counts(tmp_path: Path) -> None:
    config = _config(tmp_path)
    config.runtime.val_every = 3
    assert run_id(config) == run_id(_config(tmp_path))
    config.trainer.patience = 2
    assert run_id(config) != run_id(_config(tmp_path, patience=2))


def test_weights_chosen_among_other_validations_are_not_taken_for_these(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for keep, words in (("last", None), ("best", "validated every 1 steps, not every 3, .* set runtime.val_every=1")):
        config = _config(tmp_path, keep=keep)
        run = store.prepare(config)
        config.runtime.val_every = 3
        assert run_id(config) == run.id
        if words:
            with pytest.raises(UserError, match=words):
                store.prepare(config)
        else:
            store.prepare(config)
        run.prepare_evaluation(config)  # the weights that it measures are chosen already


def test_what_the_objective_does_not_measure_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer\.watch.*'val/psnr'.*Valid: val/bound, val/loss"):
        _config(tmp_path, keep="best", watch="val/psnr")
    with pytest.raises(UserError, match="not measured by this run"):
        train(_config(tmp_path, keep="best", watch="val/bound"))
