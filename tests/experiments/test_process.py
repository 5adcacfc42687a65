"""Which device a process works on, with stand-ins for GPUs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator, MPSAccelerator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog

from experiments.config import build_config
from experiments.curves import Board
from experiments.errors import UserError
from experiments.process import prepare_process, usable_device
from experiments.ranks import check_world
from experiments.run_config import RunConfig
from experiments.store import Run
from experiments.trainer import build_trainer
from tests.experiments.configs import TINY


def _config(**runtime: object) -> RunConfig:
    return build_config(TINY, {f"runtime.{key}": value for key, value in runtime.items()})


def test_every_process_makes_its_own_gpu_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches on the current device, and a CUDA graph records what runs there."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "2")
    prepare_process(_config(device="auto"))
    prepare_process(_config(device="cpu"))
    assert chosen == [torch.device("cuda", 2)]


def test_a_gpu_that_is_not_there_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="runtime.device=cuda, but no GPU is visible"):
        prepare_process(_config(device="cuda"))
    assert usable_device("auto", "--device ") == "cpu"


def test_more_gpus_than_there_are_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="runtime.devices=4 cannot be had here"):
        build_trainer(_config(device="cuda", devices=4), Run(tmp_path), [], 0)


def test_training_takes_the_device_that_sampling_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a laptop with Apple's GPU, too, which knows no float64."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    trainer = build_trainer(_config(device="auto"), Run(tmp_path), [], 0)
    assert isinstance(trainer.accelerator, CPUAccelerator)


@pytest.mark.parametrize("step", [0, 7])
def test_tensorboard_forgets_what_an_attempt_wrote_after_its_last_checkpoint(tmp_path: Path, step: int) -> None:
    """From the first step on, where it had no checkpoint."""
    trainer = build_trainer(_config(), Run(tmp_path), [], purge_step=step)
    assert isinstance(trainer.logger, Board)
    trainer.logger.write({"train/loss": 1.0}, step + 1)
    trainer.logger.finalize("success")
    (file,) = (tmp_path / "tb").glob("events.*")
    events = EventFileLoader(str(file)).Load()
    assert [event.step for event in events if event.session_log.status == SessionLog.START] == [step]


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("tasks", ["1", "4"])
def test_a_batch_script_that_starts_one_process_starts_all_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: str, devices: int
) -> None:
    """SLURM_NTASKS counts what srun would start; Lightning would take it for what was started."""
    monkeypatch.setenv("SLURM_NTASKS", tasks)
    monkeypatch.setenv("SLURM_JOB_NAME", "batch")
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    trainer = build_trainer(_config(device="cpu", devices=devices), Run(tmp_path), [], 0)
    assert trainer.world_size == devices


def test_another_number_of_processes_than_the_run_is_made_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NTASKS": "2", "STEP_ID": "0", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    monkeypatch.setattr("experiments.trainer.L.Trainer.world_size", 2)
    with pytest.raises(UserError, match=r"num_nodes=1 asks for other processes than the 2 that train here"):
        build_trainer(_config(device="cpu", devices=1), Run(tmp_path), [], 0)


def test_torchrun_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes are siblings, so that none of them can tell by its parent who rank 0 is."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UserError, match="torchrun cannot start a training; start one process with runtime.devices=N"):
        check_world(2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_world(1)


def test_back_ends_that_nobody_has_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_KERNELS", "fortran")
    with pytest.raises(UserError, match="ABLATE_KERNELS='fortran' is no back end"):
        prepare_process(_config(device="cpu"))


@pytest.mark.parametrize("given", [None, "cpp"])
def test_back_ends_are_forced_for_one_run(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABLATE_KERNELS", raising=False)
    if given is not None:
        monkeypatch.setenv("ABLATE_KERNELS", given)
    for kernels, expected in [("torch", "torch"), ("reference", "reference"), ("auto", given), ("auto", given)]:
        prepare_process(_config(kernels=kernels, device="cpu"))
        assert os.environ.get("ABLATE_KERNELS") == expected
