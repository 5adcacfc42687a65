"""What launchers start: one training, and every evaluation of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from experiments.config import load_config
from experiments.execute import execute
from tests.experiments.configs import tiny_preset


def test_an_evaluation_that_fails_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    preset, evaluated = tiny_preset(tmp_path, "tiny"), []
    configs = [load_config(preset, {"evaluation.seed": seed}) for seed in range(3)]

    def evaluate(config: Any, *_: object, **__: object) -> None:
        evaluated.append(config.evaluation.seed)
        if config.evaluation.seed < 2:
            raise FloatingPointError(f"samples {config.evaluation.seed} are not finite")

    monkeypatch.setattr("experiments.execute.evaluate", evaluate)
    with caplog.at_level(logging.ERROR, "ablate"), pytest.raises(FloatingPointError, match="samples 0"):
        execute(configs, part="evaluate")
    assert evaluated == [0, 1, 2]
    assert all(f"samples {seed} are not finite" in caplog.text for seed in (0, 1))
