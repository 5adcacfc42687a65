"""One run, end to end in processes of its own: kill it anywhere, start it again, get the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.config import load_config
from tests.experiments.conftest import STEPS, train, train_command


def _run_folder(root: Path) -> Path:
    (folder,) = (root / "runs").iterdir()
    return folder


def _curve(root: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (_run_folder(root) / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]


def _weights(root: Path) -> dict[str, torch.Tensor]:
    return load_file(_run_folder(root) / "checkpoints" / "final.safetensors")


def test_a_run_leaves_everything_it_promises(undisturbed: Path) -> None:
    folder = _run_folder(undisturbed)
    result = json.loads((folder / "result.json").read_text())
    assert result["step"] == result["max_steps"] == STEPS
    assert {"train/loss", "val/loss", "val/accuracy", "val/bits_per_token"} <= result["metrics"].keys()
    ran = {"selective_scan", "depthwise_conv1d", "attention", "linear", "residual"}
    assert result["provenance"]["backends"].keys() == ran
    assert [step for step, _ in _curve(undisturbed)] == list(range(1, STEPS + 1))
    assert sorted(p.name for p in (folder / "samples").iterdir()) == ["step-000040.png", f"step-{STEPS:06d}.png"]
    assert list((folder / "tb").glob("events.*"))
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    kept, final = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"],
        _weights(undisturbed),
    )
    assert all(torch.equal(final[key], kept[f"ema.{key}"]) for key in final), "the averaged weights"
    assert not all(torch.equal(final[key], kept[f"model.{key}"]) for key in final)


def _scalars(root: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(_run_folder(root) / "tb"), {"scalars": 0}).Reload()
    return {tag: [(item.step, item.value) for item in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def _check_board(root: Path) -> None:
    """TensorBoard says what metrics.jsonl says, at the same steps."""
    lines = [json.loads(line) for line in (_run_folder(root) / "metrics.jsonl").read_text().splitlines()]
    wanted: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for key in line.keys() - {"step", "time"}:
            wanted.setdefault(key, []).append((line["step"], pytest.approx(line[key])))
    assert _scalars(root) == wanted


def test_tensorboard_has_the_steps_of_the_metrics(undisturbed: Path, tmp_path: Path) -> None:
    _check_board(undisturbed)
    assert [step for step, _ in _scalars(undisturbed)["val/loss"]] == [25, 50, STEPS], "the last step's too"
    shutil.copytree(undisturbed / "cache", tmp_path / "cache")
    done = train(tmp_path, "trainer.max_steps=12", "runtime.log_every=10")
    assert done.returncode == 0, done.stderr
    _check_board(tmp_path)
    assert [step for step, _ in _scalars(tmp_path)["train/loss"]] == [10, 12]
    rate = load_config("maskmamba/demo").optim.lr
    assert 0 < _scalars(tmp_path)["train/lr"][-1][1] <= rate
    (_run_folder(tmp_path) / "result.json").unlink()
    done = train(tmp_path, "trainer.max_steps=12", "runtime.log_every=10")  # as after a kill before the result
    assert done.returncode == 0, done.stderr
    _check_board(tmp_path)
    assert [step for step, _ in _scalars(tmp_path)["val/loss"]] == [12], "not doubled"


def test_a_finished_run_is_not_trained_again(undisturbed: Path) -> None:
    before = (_run_folder(undisturbed) / "result.json").stat().st_mtime_ns
    assert train(undisturbed).returncode == 0
    assert (_run_folder(undisturbed) / "result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(("workers", "number"), [(0, signal.SIGKILL), (2, signal.SIGTERM)])
def test_killed_and_resumed_is_bit_identical(undisturbed: Path, tmp_path: Path, workers: int, number: int) -> None:
    shutil.copytree(undisturbed / "cache", tmp_path / "cache")
    extra = f"runtime.num_workers={workers}"
    process = subprocess.Popen(train_command(tmp_path, extra), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for_step(tmp_path, 18 if number == signal.SIGKILL else 10, process)
    os.kill(process.pid, number)
    process.wait(timeout=60)
    assert not (_run_folder(tmp_path) / "result.json").exists()
    if number == signal.SIGTERM:
        assert json.loads((_run_folder(tmp_path) / "status.json").read_text())["state"] == "stopped"

    done = train(tmp_path, extra)
    assert done.returncode == 0, done.stderr
    assert _curve(tmp_path) == _curve(undisturbed)
    _check_board(tmp_path)
    ours, theirs = _weights(tmp_path), _weights(undisturbed)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def _wait_for_step(root: Path, step: int, process: subprocess.Popen) -> None:
    while not any(path.read_text().count("train/loss") >= step for path in root.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None, "training ended before it could be killed"
        time.sleep(0.01)


def test_kernels_are_forced_by_configuration_and_recorded(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed / "cache", tmp_path / "cache")
    done = train(tmp_path, "runtime.kernels=torch", "trainer.max_steps=2")
    assert done.returncode == 0, done.stderr
    result = json.loads((_run_folder(tmp_path) / "result.json").read_text())
    assert set(result["provenance"]["backends"].values()) == {"torch"}
    done = train(tmp_path, "runtime.kernels=tocrh", "trainer.max_steps=3")
    assert done.returncode == 2 and "tocrh" in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_checkpoint_is_one_sentence(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    folder = _run_folder(tmp_path)
    (folder / "result.json").unlink()
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    done = train(tmp_path)
    assert done.returncode == 2
    assert "damaged" in done.stderr and str(checkpoint) in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("there", "precision"), [(False, "fp32"), (True, "bf16")])
def test_bfloat16_is_float32_where_a_device_does_not_compute_in_it(
    there: bool, precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Element by element it would take many times as long. What was computed in is recorded."""
    import torch

    from experiments import process
    from experiments.provenance import provenance
    from experiments.store import RunStore
    from experiments.trainer import PRECISION, build_trainer
    from tests.experiments.configs import small_config

    monkeypatch.setattr(process, "computes_bfloat16", lambda kind: there)
    config = small_config(trainer__precision="bf16", runtime__device="cpu", runtime__root=str(tmp_path))
    process._tell.cache_clear()
    for _ in range(2):
        process.prepare_process(config)
    assert [record.message for record in caplog.records if "float32 takes its place" in record.message] == (
        [] if there else ["This cpu device does not compute in bfloat16: float32 takes its place, and results say so."]
    )
    assert provenance(config, {}, 0.0, 1)["precision"] == precision
    trainer = build_trainer(config, RunStore(config.root).prepare(config, ()), [], 0)
    assert trainer.precision == PRECISION[precision]
    with process.autocast(config, torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if there else torch.float32)


def test_half_precision_is_refused_on_a_cpu() -> None:
    from experiments.errors import UserError
    from experiments.process import prepare_process
    from tests.experiments.configs import small_config

    with pytest.raises(UserError, match="fp16 needs a GPU"):
        prepare_process(small_config(trainer__precision="fp16", runtime__device="cpu"))
