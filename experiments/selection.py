"""What a run makes of its validations: which weights it ends with, and whether it ends before its last step.

`trainer.keep=best` ends with the weights of the best validation. `trainer.patience=N` ends training after N validations
in a row without a new best (early stopping); the result then says so and counts as done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L

from experiments.curves import write_metrics
from experiments.errors import UserError
from experiments.files import atomic_path
from experiments.ranks import is_leader
from experiments.run_config import RunConfig
from experiments.store import Run
from lightning_modules.checkpoints import load_safetensors, save_safetensors
from lightning_modules.metrics.config import METRICS
from lightning_modules.sharding import load_whole_state, whole_state


class Selection(L.Callback):
    """Follows one metric of the validations; a resumed run knows those of its earlier attempts.

    Must stand before `Heartbeat`, so that a line of metrics.jsonl promises that its validation was taken note of.

    Args:
        run: whose metrics.jsonl ends at the step that it resumes from.
        config: `trainer` says which metric, and what for.
    """

    def __init__(self, run: Run, config: RunConfig):
        self.run, self.config = run, config.trainer
        self._every = config.runtime.val_every
        self._sign = -1.0 if METRICS[self.config.watch].better == "higher" else 1.0
        lines = [line for line in run.metrics() if any(key.startswith("val/") for key in line)]
        self._seen = {line["step"]: self._usable(line.get(self.config.watch)) for line in lines}
        """Step -> value."""
        self._saved = max(self._seen, default=0)
        """Step of the last checkpoint, or of the last validation before it."""
        if self.config.keep == "best":
            self._resume()

    def _resume(self) -> None:
        """Remove the weights of validations after the checkpoint that the run goes on from, which will be done again.

        Raises:
            UserError: the weights of the best validation up to there are gone.
        """
        if (best := self.best_step) is not None and not self._weights(best).is_file():
            raise UserError(
                f"{self._weights(best)} is gone, the weights of the best validation so far; put it back, or remove "
                f"{self.run.last_checkpoint} to train this run again from the start."
            )
        self._keep(best)

    def _weights(self, step: int) -> Path:
        return self.run.checkpoints / f"best-{step:06d}.safetensors"

    def _keep(self, *steps: int | None) -> None:
        """Remove the weights of all other steps."""
        kept = [self._weights(step) for step in steps if step is not None]
        for path in self.run.checkpoints.glob("best-*.safetensors") if is_leader() else ():
            if path not in kept:
                path.unlink(missing_ok=True)

    @property
    def best_step(self) -> int | None:
        """Step of the best validation, the first of equals; None before any."""
        return self._best_of(self._seen)

    def _best_of(self, steps: Iterable[int]) -> int | None:
        return min(steps, key=lambda step: (self._sign * self._seen[step], step), default=None)

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` validations brought nothing new."""
        best = self.best_step
        since = 0 if best is None else sum(step > best for step in self._seen)
        return 0 < self.config.patience <= since

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember from where the run would go on."""
        self._saved = trainer.global_step

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """Take note, and end training in good order where it goes nowhere."""
        if trainer.state.fn == "fit":
            self._note(trainer, module, trainer.global_step, trainer.callback_metrics)
            trainer.should_stop = trainer.should_stop or self.exhausted

    def validate_missed(self, trainer: L.Trainer, module: Any, data: L.LightningDataModule, step: int) -> None:
        """Validate at the step that a run resumes from, where it ended between the checkpoint and the validation of
        that step: Lightning would go on with the next step."""
        if step % self._every == 0 and step not in self._seen:
            checkpoint = self.run.last_checkpoint
            values = trainer.validate(module, data, ckpt_path=checkpoint, weights_only=False, verbose=False)[0]
            self._note(trainer, module, step, values)
            if trainer.is_global_zero:
                write_metrics(trainer, self.run, step, values)

    def _note(self, trainer: L.Trainer, module: Any, step: int, values: Any) -> None:
        if self.config.selects and self.config.watch not in values:
            raise UserError(f"trainer.watch={self.config.watch} is not measured by this run's generator.")
        self._seen[step] = self._usable(values.get(self.config.watch))
        if self.config.keep == "best" and self.best_step == step:
            weights = whole_state(module.sampling_model)
            if trainer.is_global_zero:
                with atomic_path(self._weights(step)) as temporary:
                    save_safetensors(temporary, weights, {"step": str(step)})
                # An attempt after this one may go on from the checkpoint, and find this step's validation not to win.
                self._keep(step, self._best_of(seen for seen in self._seen if seen <= self._saved and seen != step))

    def _usable(self, value: Any) -> float:
        """A value that is not finite (null in a file) is the worst of all."""
        return float(value) if value is not None and math.isfinite(value) else self._sign * math.inf

    def restore(self, module: Any) -> int | None:
        """Give the module the weights that the run ends with; returns their step, None = they are the last ones."""
        if self.config.keep != "best" or (best := self.best_step) is None:
            return None
        network = module.sampling_model
        load_whole_state(network, load_safetensors(self._weights(best), network.state_dict()))
        return best

    def record(self, step: int) -> dict[str, Any]:
        """What the result of a training that ended at `step` says, if that is not the last one."""
        best = self.best_step
        if best is None or step == self.config.max_steps:
            return {}
        told = {"metric": self.config.watch, "best": self._seen[best], "best_step": best}
        return {"stopped_early": {**told, "patience": self.config.patience}}
