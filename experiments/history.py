"""Who trained the steps of a run: each attempt leaves attempts/000001.json and so on, numbered as its claim.

An attempt's record is written when it begins, and again just before each of its checkpoints, so that every step in a
checkpoint has a record, however the attempt ends. Steps after its last checkpoint are trained again by the next
attempt, and count as that one's: its record tells the step at which it began.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import lightning as L

from experiments.files import atomic_write_json, read_json
from experiments.provenance import kinds, ran_with, shared_by
from experiments.ranks import is_leader
from experiments.run_config import RunConfig
from experiments.store import Run
from lightning_modules.kernels import backends_used

log = logging.getLogger("ablate")


class Attempt(L.Callback):
    """Keeps the record of this process' attempt. Construct it inside the claim; rank 0 alone writes.

    Args:
        first_step: optimiser steps in the checkpoint that the attempt goes on from; 0 = there is none.

    Raises:
        UserError: the record of an earlier attempt is damaged, or this one cannot be written.
    """

    def __init__(self, run: Run, config: RunConfig, first_step: int):
        self.run, self.config = run, config
        self.path = run.attempts_folder / f"{run.attempts:06d}.json"
        self._began = {"attempt": run.attempts, "first_step": first_step, "started_at": time.time()}
        if is_leader():
            before = trained_by(run, first_step)
            self._write(first_step)
            if before:
                _tell_changes(run, first_step, before[-1], self.record(first_step))

    def record(self, last_step: int) -> dict[str, Any]:
        """What this attempt runs with, from its first step to `last_step`."""
        span = {**self._began, "last_step": last_step}
        return {**span, **ran_with(self.config, backends_used()), **shared_by(self.config)}

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record the back ends of the steps that are about to be saved."""
        if trainer.is_global_zero:
            self._write(trainer.global_step)

    def finish(self, last_step: int) -> dict[str, Any]:
        """Close the record; returns what the result's provenance says where others trained some of the steps."""
        self._write(last_step)
        parts = trained_by(self.run, last_step)
        alone = all(part.get("attempt") == self._began["attempt"] for part in parts)
        return {} if alone else {"trained_by": parts}

    def _write(self, last_step: int) -> None:
        atomic_write_json(self.path, self.record(last_step))


def trained_by(run: Run, step: int) -> list[dict[str, Any]]:
    """The attempts whose steps are in the weights after `step`, in order, each with its share of the steps; of steps
    that were trained before attempts left records, a share and nothing else. Raises UserError for a damaged record."""
    kept: list[dict[str, Any]] = []
    for path in sorted(run.attempts_folder.glob("[0-9]*.json")):
        record = read_json(path)
        kept = [earlier for earlier in kept if earlier["first_step"] < record["first_step"]]  # the rest is thrown away
        kept.append(record)
    kept = [record for record in kept if record["first_step"] < step]
    if (kept[0]["first_step"] if kept else step) > 0:
        kept.insert(0, {"first_step": 0})
    ends = [*(record["first_step"] for record in kept[1:]), step]
    return [{**record, "last_step": end} for record, end in zip(kept, ends, strict=False)]


def _tell_changes(run: Run, step: int, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Say in one line what has changed since the steps so far were trained."""
    old, new = kinds(then), kinds(now)
    changed = [f"{name} {old[name]} then, {new[name]} now" for name in new if old[name] and old[name] != new[name]]
    if changed:
        log.warning("%s goes on from step %d with other means: %s.", run.id, step, "; ".join(changed))
