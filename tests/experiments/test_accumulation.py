"""Batches accumulated into one step: a run that was interrupted draws what the uninterrupted one draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from experiments.config import RunConfig, build_config
from experiments.run import train
from experiments.store import Run
from tests.experiments.configs import TINY


class Interrupt(L.Callback):
    """Ends training at the first batch after step 2, whose checkpoint is written by then."""

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == 2:
            raise KeyboardInterrupt


def _config(root: Path) -> RunConfig:
    values = {"max_steps": 4, "accumulate": 2}
    config = build_config(TINY, {f"trainer.{key}": value for key, value in values.items()})
    config.runtime.root, config.runtime.sample_every = str(root), 2
    return config


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
