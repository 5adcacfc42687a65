"""Runs that end with their best weights, and runs that end early."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from experiments.build import load_generator
from experiments.config import load_config
from experiments.errors import UserError
from experiments.identity import run_id
from experiments.run import train
from experiments.run_config import RunConfig
from experiments.selection import Selection
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
    best = load_safetensors(run.checkpoints / f"best-{result['kept_step']:06d}.safetensors", state)
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


class Validations:
    """One attempt at a run whose only weight is the step it is of."""

    def __init__(self, run: Run):
        self.run = run
        self.selection = Selection(run, load_config("maskmamba/demo", {"trainer.keep": "best"}))
        self.network = torch.nn.Linear(1, 1, bias=False)
        self.module = SimpleNamespace(sampling_model=self.network)

    def validate(self, step: int, loss: float) -> None:
        torch.nn.init.constant_(self.network.weight, step)
        metrics = {"val/loss": loss}
        trainer: Any = SimpleNamespace(
            state=SimpleNamespace(fn="fit"),
            global_step=step,
            callback_metrics=metrics,
            is_global_zero=True,
            should_stop=False,
        )
        self.selection.on_validation_end(trainer, self.module)
        self.run.append_metrics(step, 0.0, metrics)

    def save(self, step: int) -> None:
        trainer: Any = SimpleNamespace(global_step=step)
        self.selection.on_save_checkpoint(trainer, self.module, {})  # type: ignore[arg-type]

    def kept(self) -> tuple[int | None, float]:
        return self.selection.restore(self.module), self.network.weight.item()


@pytest.mark.parametrize("again", [3.9, 4.1])
def test_the_best_weights_of_an_abandoned_attempt_are_not_kept(tmp_path: Path, again: float) -> None:
    """The step after the checkpoint was the best one; when it is trained again, sums may round otherwise."""
    run = Run(tmp_path)
    first = Validations(run)
    first.validate(100, 5.0)
    first.validate(200, 4.0)
    first.save(200)
    first.validate(300, 3.5)
    assert len(list(run.checkpoints.glob("best-*"))) == 2, "both may be the one that is needed"
    run.truncate_metrics(200)  # killed, and resumed from the checkpoint
    second = Validations(run)
    second.validate(300, again)
    second.validate(400, 4.2)
    assert second.kept() == ((300, 300.0) if again < 4 else (200, 200.0))


def test_the_weights_of_a_validation_just_after_its_checkpoint_are_kept(tmp_path: Path) -> None:
    run = Run(tmp_path)
    first = Validations(run)
    first.validate(100, 5.0)
    first.save(200)
    first.validate(200, 4.0)
    first.validate(300, 3.5)
    first.validate(400, 3.0)
    run.truncate_metrics(200)  # killed, and resumed from the checkpoint
    assert Validations(run).kept() == (200, 200.0)
    assert [path.name for path in run.checkpoints.iterdir()] == ["best-000200.safetensors"]


def test_best_weights_that_are_gone_are_missed_before_training_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path)
    Validations(run).validate(100, 5.0)
    (run.checkpoints / "best-000100.safetensors").unlink()
    with pytest.raises(UserError, match=r"best-000100.safetensors is gone, the weights of the best validation so far"):
        Validations(run)


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        (
            {"keep": "best", "max_steps": 399},
            "keep=best chooses .* runtime.val_every=200 and .*=399 leave fewer than two",
        ),
        ({"patience": 2, "max_steps": 600}, "patience=2 can end a run at step 600 at the earliest"),
        ({"keep": "best", "max_steps": 400}, ""),
        ({"patience": 2, "max_steps": 601}, ""),
    ],
)
def test_a_choice_among_too_few_validations_is_refused(trainer: dict[str, Any], said: str) -> None:
    words = {f"trainer.{key}": value for key, value in trainer.items()}
    if said:
        with pytest.raises(UserError, match=said):
            load_config("maskmamba/demo", words)
    else:
        assert load_config("maskmamba/demo", words).runtime.val_every == 200
