"""The curves of a training: metrics.jsonl, and the same numbers at the same steps in TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from experiments.store import Run


class Board(TensorBoardLogger):
    """TensorBoard, written to by `write_metrics` alone."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Nothing: Lightning calls this at other steps than `write_metrics`, and with the index of the step under way
        in place of the number of steps done."""

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Add scalars, at once: a kill must not leave the file behind metrics.jsonl."""
        super().log_metrics(metrics, step)
        self.save()


def write_metrics(trainer: L.Trainer, run: Run, step: int, metrics: Mapping[str, Any]) -> None:
    """Note what holds after `step` steps. Call on rank 0."""
    values = {key: float(value) for key, value in metrics.items()}
    run.append_metrics(step, time.time(), values)
    for logger in trainer.loggers:
        if isinstance(logger, Board):
            logger.write(values, step)
