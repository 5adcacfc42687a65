"""Early stopping by selection: a run that keeps its best weights ends with those of its lowest validation loss.

Training goes on to its last step, so that runs stay comparable and "done" means the same for all; what comes after the
minimum is seen in the curves and left out of the samples.
"""

from __future__ import annotations

from typing import Any

import lightning as L
from safetensors import safe_open

from experiments.files import atomic_path
from experiments.store import Run
from lightning_modules.checkpoints import load_safetensors, save_safetensors

METRIC = "val/loss"


class KeepBest(L.Callback):
    """Write checkpoints/best.safetensors whenever a validation finds a lower loss than all before."""

    def __init__(self, run: Run):
        self.path = run.checkpoints / "best.safetensors"
        self.lowest = float("inf")
        self.step = 0

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Take up what an earlier attempt found."""
        if stage == "fit" and self.path.is_file():
            with safe_open(self.path, framework="pt") as file:
                self.lowest, self.step = float(file.metadata()[METRIC]), int(file.metadata()["step"])

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """Compare, and write."""
        if trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        loss = float(trainer.callback_metrics[METRIC])
        if loss < self.lowest:
            self.lowest, self.step = loss, trainer.global_step
            with atomic_path(self.path) as temporary:
                metadata = {METRIC: repr(loss), "step": str(self.step)}
                save_safetensors(temporary, module.sampling_model.state_dict(), metadata)

    def restore(self, module: Any) -> None:
        """Give the module the best weights; the last ones where there was no validation."""
        if self.path.is_file():
            network = module.sampling_model
            network.load_state_dict(load_safetensors(self.path, network.state_dict()))
