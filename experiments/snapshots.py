"""Weights kept on the way: what a training had learned by then can be sampled and measured (AiM, Figure 6)."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning as L

from experiments.errors import UserError
from experiments.files import atomic_path
from experiments.run_config import RunConfig
from experiments.store import Run
from lightning_modules.base import TrainingModule
from lightning_modules.checkpoints import save_safetensors
from lightning_modules.sharding import whole_state


def snapshot_steps(config: RunConfig) -> tuple[int, ...]:
    """Steps at which weights are kept: `trainer.snapshots` equal shares of the training, without the last of them."""
    count = config.trainer.snapshots
    return tuple(math.ceil(config.trainer.max_steps * share / count) for share in range(1, count))


def snapshot_step(config: RunConfig) -> int | None:
    """Step of the weights that `evaluation.snapshot` picks; None for those that the run ends with."""
    which = config.evaluation.snapshot
    return snapshot_steps(config)[which - 1] if which else None


def sampled_weights(config: RunConfig, run: Run) -> Path:
    """The file of the weights that an evaluation draws samples from.

    Raises:
        UserError: the snapshot is not there: its training ended before it.
    """
    step = snapshot_step(config)
    if step is None:
        return run.final_weights
    if not (path := run.snapshot(step)).is_file():
        raise UserError(
            f"evaluation.snapshot={config.evaluation.snapshot}: {run.id} kept no weights at step {step}; its training "
            "ended before it, or the file was removed."
        )
    return path


def snapshot_facts(config: RunConfig, run: Run) -> dict[str, Any]:
    """What the result of an evaluation says in the place of its training's: step, operations and time up to there, and
    what a validation found at that step. {} for the weights that the run ends with."""
    step = snapshot_step(config)
    if step is None:
        return {}
    result = run.result() or {}
    share = step / result["step"]
    found = next((line for line in run.metrics() if line["step"] == step and "val/loss" in line), {})
    return {
        "kept_step": step,
        "training_flops": round(result["training_flops"] * share),
        "train_seconds": result["train_seconds"] * share if result.get("train_seconds") else None,
        **{key: value for key, value in found.items() if key.startswith("val/") and value is not None},
    }


class Snapshots(L.Callback):
    """Writes the weights that samples are drawn from (averaged ones if on) at given steps.

    Must stand before `Checkpoints`: a checkpoint promises the snapshots before it. A step that a resumed run takes
    again is written again.
    """

    def __init__(self, run: Run, steps: Collection[int]):
        self.run, self.steps = run, frozenset(steps)

    def on_train_batch_end(self, trainer: L.Trainer, module: TrainingModule, *args: Any) -> None:  # type: ignore[override]
        """Write when it is time, once per optimiser step."""
        step = trainer.global_step
        if step not in self.steps or trainer.fit_loop._should_accumulate():
            return
        weights = whole_state(module.sampling_model)
        if trainer.is_global_zero:
            path = self.run.snapshot(step)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                save_safetensors(temporary, weights, {"run_id": self.run.id, "steps": str(step)})
