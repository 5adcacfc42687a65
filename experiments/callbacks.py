"""What happens beside training: checkpoints, progress reports, sample grids, and stopping in good order."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L

from experiments.claims import ClaimLost
from experiments.conditions import Conditions, grid_columns, grid_conditions
from experiments.curves import write_metrics
from experiments.files import atomic_path
from experiments.pictures import kept_grid, write_png
from experiments.run_config import RunConfig
from experiments.sampling import sample_images
from experiments.stopping import Stopped, with_hangup
from experiments.store import Run
from lightning_modules.base import TrainingModule
from lightning_modules.generators.config import GENERATORS
from lightning_modules.sharding import whole_network

log = logging.getLogger("ablate")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Checkpoints(L.Callback):
    """Write checkpoints/last.ckpt every `every` steps and at the end; on a signal write it at the next step and stop.

    The file is replaced atomically: a kill at any moment leaves the previous checkpoint whole.
    """

    def __init__(self, path: Path, every: int):
        self.path = path
        self.every = every
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._at_sigterm: Any = signal.SIG_DFL
        self._saved_step = -1

    @contextmanager
    def stop_on_signals(self) -> Iterator[None]:
        """Put this around `fit`. An error in it after a signal counts as the signal's doing: the other processes of the
        run, and those that read batches, get the signal too, and may be gone before this one has ended its step.

        Raises:
            Stopped: a signal came.
        """
        try:
            yield
            if self._signal is not None:  # it came after the last step, whose checkpoint is written
                raise Stopped(self._name())
        except ClaimLost:
            raise
        except Exception as error:
            if self._signal is None:
                raise
            log.warning("Stopped by %s before a checkpoint: %s", self._name(), " ".join(str(error).split()))
            raise Stopped(self._name()) from error
        finally:  # only when `fit` is over has Lightning put back the handlers that it found
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers.clear()

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Take over the stop signals (possible in the main thread only)."""
        for number in with_hangup(*STOP_SIGNALS) if stage == "fit" else ():
            self._handlers[number] = signal.signal(number, self._on_signal)
        self._at_sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take over SIGTERM again: Lightning's handler, set after `setup`, broadcasts from inside the signal, whatever
        collective the process is in, and the processes of a run break each other."""
        signal.signal(signal.SIGTERM, self._at_sigterm)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """As `on_train_start`."""
        signal.signal(signal.SIGTERM, self._at_sigterm)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signal = number

    def _name(self) -> str:
        """Of the signal; where only another process of this run got one, the usual one."""
        return signal.Signals(self._signal or signal.SIGTERM).name

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """SIGTERM leaves half a minute, which the rest of a validation may not fit in: stop with the last checkpoint.

        Raises:
            Stopped: SIGTERM came to a process of this run.
        """
        if trainer.strategy.reduce_boolean_decision(self._signal == signal.SIGTERM, all=False):
            raise Stopped(self._name())

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """Save when it is time, once per optimiser step."""
        if trainer.fit_loop._should_accumulate():
            return
        step = trainer.global_step
        stop = trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)
        due = step % self.every == 0 or step == trainer.max_steps or stop
        if due and step != self._saved_step:
            if trainer.is_global_zero:
                with atomic_path(self.path) as temporary:
                    trainer.save_checkpoint(temporary)
            else:
                trainer.save_checkpoint(self.path)  # takes part in the collective, writes nothing
            self._saved_step = step
        if stop:
            raise Stopped(self._name())


class Heartbeat(L.Callback):
    """Report progress: status.json, a line of metrics.jsonl and of the log every `every` steps, throughput.

    Must stand before `Checkpoints`, so that a line is written before the checkpoint that promises it. (Lightning's own
    loggers write after the callbacks, and CSVLogger deletes its history on resume.)
    """

    def __init__(self, run: Run, config: RunConfig):
        self.run = run
        self.every = config.runtime.log_every
        self.batch_size = config.trainer.batch_size
        self.rate: float | None = None
        self.loss: float | None = None
        self._since: tuple[float, int] | None = None

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Start the clock at the first batch, so that building the model does not count."""
        if self._since is None:
            self._since = (time.perf_counter(), trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """Heartbeat every step (the store writes at most once a second), the rest every `every` steps."""
        step = trainer.global_step
        if not trainer.is_global_zero:
            return
        if (step % self.every == 0 or step == trainer.max_steps) and self._since and step > self._since[1]:
            now = time.perf_counter()
            self.loss = float(trainer.callback_metrics["train/loss"])  # waits for the device, so not every step
            self.rate = (step - self._since[1]) / (now - self._since[0])
            self._since = (now, step)
            rate = {"train/samples_per_s": self.rate * self.batch_size}
            self._write(trainer, "train/", rate)
            log.info("step %d/%d  loss %.4f  %.2f it/s", step, trainer.max_steps, self.loss, self.rate)
        self.run.update(
            phase="train",
            step=step,
            max_steps=int(trainer.max_steps),
            loss=self.loss,
            steps_per_s=self.rate,
        )

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Write what validation found; the clock starts again, for validation is not training time."""
        if trainer.is_global_zero and trainer.state.fn == "fit":
            self._write(trainer, "val/", {})
            self._since = (time.perf_counter(), trainer.global_step)

    def _write(self, trainer: L.Trainer, prefix: str, more: dict[str, float]) -> None:
        values = {key: value for key, value in trainer.callback_metrics.items() if key.startswith(prefix)}
        write_metrics(trainer, self.run, trainer.global_step, {**values, **more})


class SampleGrid(L.Callback):
    """Sample the same seeds and conditions every `every` steps: samples/step-N.png and an image in TensorBoard."""

    def __init__(self, run: Run, config: RunConfig, tokenizer: Any, every: int):
        self.run = run
        self.config = config
        self.tokenizer = tokenizer
        self.every = every
        self._conditions: Conditions | None = None
        self._done = -1

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """Sampling has randomness of its own and leaves the training's untouched."""
        step = trainer.global_step
        due = self.every and (step % self.every == 0 or step == trainer.max_steps)
        if not due or step == self._done or trainer.fit_loop._should_accumulate():
            return
        self._done = step
        assert isinstance(module, TrainingModule)
        build = partial(GENERATORS.build, self.config.generator)
        network = whole_network(module.sampling_model, build, module.device)
        if network is None or not trainer.is_global_zero:
            return
        if self._conditions is None:
            self._conditions = grid_conditions(self.config, module.device)
        samples = sample_images(
            self.config,
            network,
            self.tokenizer.to(module.device),
            self._conditions,
            seed=0,
            batch_size=self.config.evaluation.batch_size,
            device=module.device,
        )
        grid = kept_grid(samples.images, self._conditions.captions, grid_columns(self.config))
        write_png(grid, self.run.samples / f"step-{step:06d}.png")
        for logger in trainer.loggers:
            experiment: Any = getattr(logger, "experiment", None)  # Lightning's base class does not promise one
            if hasattr(experiment, "add_image"):
                experiment.add_image("samples", grid, step, dataformats="HWC")
