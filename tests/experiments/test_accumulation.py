"""Batches accumulated into one step: all steps are alike, and an interrupted run draws what a whole one draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from experiments.config import build_config
from experiments.run import train
from experiments.run_config import RunConfig
from experiments.store import Run
from tests.experiments.configs import TINY


class Interrupt(L.Callback):
    """Ends training at the first batch after a step, whose checkpoint is written by then."""

    def __init__(self, step: int = 2):
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


class Count(L.Callback):
    """Samples of every optimiser step, and validations as (step, samples of the next step that were seen already)."""

    def __init__(self) -> None:
        self.seen, self.steps, self.validations = 0, list[int](), list[tuple[int, int]]()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: dict[str, torch.Tensor], *args: Any
    ) -> None:
        self.seen += len(batch["label"])
        if not trainer.fit_loop._should_accumulate():
            self.steps.append(self.seen)
            self.seen = 0

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.validations.append((trainer.global_step, self.seen))


def _config(root: Path, **overrides: Any) -> RunConfig:
    values = {"trainer.max_steps": 4, "trainer.accumulate": 2, "runtime.sample_every": 2, "runtime.root": str(root)}
    return build_config(TINY, values | {key.replace("__", "."): value for key, value in overrides.items()})


def _weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.final_weights)


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = train(_config(tmp_path / "whole"))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(_config(tmp_path / "parts"), callbacks=[Interrupt()])
    parts = train(_config(tmp_path / "parts"))
    expected, found = _weights(whole), _weights(parts)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    # Between two steps nothing is drawn that the step before has drawn, nor before the first.
    assert sorted(path.name for path in whole.samples.iterdir()) == ["step-000002.png", "step-000004.png"]


@pytest.mark.parametrize("interrupted", [None, 6])
def test_every_step_is_of_a_whole_batch_and_validations_lie_between_steps(
    tmp_path: Path, interrupted: int | None
) -> None:
    """Where the images (20) are no multiple of the batch (8) and epochs end between two validations."""
    config = _config(
        tmp_path,
        data__subset=20,
        trainer__max_steps=9,
        trainer__accumulate=4,
        runtime__val_every=3,
        runtime__sample_every=0,
    )
    count = Count()
    if interrupted:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(config, callbacks=[count, Interrupt(interrupted)])
    run = train(config, callbacks=[count])
    assert count.steps == 9 * [8]
    assert count.validations == [(3, 0), (6, 0), (9, 0)]
    assert [line["step"] for line in run.metrics() if "val/loss" in line] == [3, 6, 9]
