"""Signals that end a process in good order, wherever it is: the status says so, and it is no failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch

from experiments.callbacks import STOP_SIGNALS
from experiments.config import load_config, save_config
from experiments.identity import run_id
from experiments.lineage import PresetStart, start_of
from experiments.run import train
from experiments.run_config import RunConfig
from experiments.stopping import Stopped, stopped_by_signals
from experiments.store import Run, RunStore
from tests.experiments.configs import tiny_preset

SIGNALLED = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which tests under nohup inherit ignored
import experiments.run
from experiments.cli import main
experiments.run._train = lambda *_: signal.raise_signal(int(sys.argv[1]))
main(sys.argv[2:])
"""
"""The command, with a training that gets a signal before it begins to fit."""
FORKED = """
import os, signal, sys
from experiments.stopping import Stopped, stopped_by_signals
with stopped_by_signals():
    child = os.fork()
    if not child:
        try:
            signal.raise_signal(signal.SIGUSR1)
        except Stopped:
            os._exit(1)
        os._exit(7)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def stored(config: RunConfig, folder: Path) -> str:
    save_config(config, folder / "job.yaml")
    return str(folder / "job.yaml")


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("execute", signal.SIGUSR1),
        ("train", signal.SIGTERM),
        pytest.param("train", signal.SIGHUP, id="closed terminal"),
    ],
)
def test_a_signal_outside_fit_is_no_failure(tmp_path: Path, command: str, number: int) -> None:
    config = load_config(tiny_preset(tmp_path, "tiny"))
    words = [sys.executable, "-c", SIGNALLED, str(int(number)), command, stored(config, tmp_path)]
    assert subprocess.run(words, capture_output=True).returncode == os.EX_TEMPFAIL
    run = RunStore(config.root).run(run_id(config))
    status = run.inspect()
    assert (status.state, status.reason) == ("stopped", f"stopped by {signal.Signals(number).name}")
    with run.claim(most_repeats=1) as mine:
        assert mine and run.status().repeats == 0


def test_a_signal_while_it_waits_for_its_parent_is_no_failure(tmp_path: Path) -> None:
    config = load_config(tiny_preset(tmp_path, "child", trainer={"init_from": tiny_preset(tmp_path, "parent")}))
    store = RunStore(config.root)
    parent = start_of(config)
    assert isinstance(parent, PresetStart)
    with store.prepare(parent.config).claim():
        words = [sys.executable, "-m", "experiments.cli", "execute", stored(config, tmp_path)]
        child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        assert child.stderr
        assert any("is being trained by" in line for line in child.stderr)
        child.send_signal(signal.SIGUSR1)
        child.communicate()
    assert child.returncode == os.EX_TEMPFAIL
    assert store.run(run_id(config)).inspect().reason == "stopped by SIGUSR1"


def test_a_second_signal_does_not_disturb_and_the_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with pytest.raises(Stopped) as stopped, stopped_by_signals():
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.raise_signal(signal.SIGTERM)
    assert (stopped.value.name, stopped.value.code) == ("SIGUSR1", os.EX_TEMPFAIL)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_forked_processes_leave_signals_to_their_parent() -> None:
    assert subprocess.run([sys.executable, "-c", FORKED]).returncode == 7


class Fail(L.Callback):
    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        raise FloatingPointError


@pytest.mark.parametrize("fails", [True, False])
def test_a_training_gives_the_signals_back_however_it_ends(tmp_path: Path, fails: bool) -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    try:
        run: Run | None = train(load_config(tiny_preset(tmp_path, "tiny")), callbacks=[Fail()] if fails else [])
    except FloatingPointError:
        run = None
    assert (run is None) is fails
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


class Signal(L.Callback):
    """Sends a signal when it gets to `hook` at a step, and fails there if asked to."""

    def __init__(self, hook: str, step: int, fails: bool = False, number: signal.Signals = signal.SIGTERM):
        self.step, self.fails, self.number = step, fails, number
        setattr(self, hook, self._send)

    def _send(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(self.number)
            if self.fails:
                raise RuntimeError("Connection closed by peer")


@pytest.mark.parametrize(
    ("hook", "step", "fails", "saved"),
    [
        ("on_train_batch_start", 4, False, 5),  # the step is finished and saved
        ("on_train_batch_start", 4, True, 3),  # another process of the run was gone first
        ("on_validation_batch_start", 4, False, 3),
        ("on_train_end", 6, False, 6),
    ],
)
def test_a_signal_while_it_trains_is_no_failure(tmp_path: Path, hook: str, step: int, fails: bool, saved: int) -> None:
    trainer, runtime = {"max_steps": 6}, {"checkpoint_every": 3, "val_every": 4}
    config = load_config(tiny_preset(tmp_path, "tiny", trainer=trainer, runtime=runtime))
    run = RunStore(config.root).run(run_id(config))
    with pytest.raises(Stopped):
        train(config, callbacks=[Signal(hook, step, fails)])
    assert (run.inspect().state, run.status().reason) == ("stopped", "stopped by SIGTERM")
    assert torch.load(run.last_checkpoint, weights_only=False)["global_step"] == saved
    assert train(config).is_done()


@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_stops_a_training_unless_nohup_began_it(tmp_path: Path, nohup: bool) -> None:
    config = load_config(tiny_preset(tmp_path, "tiny", trainer={"max_steps": 4}, runtime={"checkpoint_every": 4}))
    run = RunStore(config.root).run(run_id(config))
    inherited = signal.SIG_IGN if nohup else signal.SIG_DFL
    before, stopped = signal.signal(signal.SIGHUP, inherited), False
    try:
        train(config, callbacks=[Signal("on_train_batch_start", 1, number=signal.SIGHUP)])
    except Stopped:
        stopped = True
    finally:
        after = signal.signal(signal.SIGHUP, before)
    assert stopped is not nohup and after == inherited
    assert run.status().reason == ("" if nohup else "stopped by SIGHUP")
    assert torch.load(run.last_checkpoint, weights_only=False)["global_step"] == (4 if nohup else 2)


class Handlers(L.Callback):
    """Keeps who handles SIGTERM while it trains and validates."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def on_train_batch_start(self, *args: object) -> None:
        self.seen.append(signal.getsignal(signal.SIGTERM))

    on_validation_batch_start = on_train_batch_start


def test_lightning_does_not_broadcast_inside_of_signals(tmp_path: Path) -> None:
    handlers = Handlers()
    with stopped_by_signals():
        outer = signal.getsignal(signal.SIGTERM)
        train(load_config(tiny_preset(tmp_path, "tiny")), callbacks=[handlers])
    assert handlers.seen[-1] is outer  # the validation after the training
    assert {getattr(handler, "__module__", "") for handler in handlers.seen} == {
        "experiments.callbacks",
        "experiments.stopping",
    }
