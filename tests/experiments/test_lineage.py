"""Runs that start from other runs."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import lightning as L
import pytest
import torch

from experiments.build import load_generator
from experiments.config import load_config
from experiments.errors import UserError
from experiments.identity import run_id, training_hash
from experiments.lineage import RunStart, start_of
from experiments.networks import build_network
from experiments.run import train
from experiments.run_config import RunConfig
from experiments.store import Run, RunStore
from lightning_modules.checkpoints import save_safetensors
from tests.experiments.configs import finished, tiny_preset


def _child(folder: Path, **trainer: str) -> RunConfig:
    parent = tiny_preset(folder, "parent")
    child = tiny_preset(
        folder,
        "child",
        tokenizer={"downsample": 2},
        generator={"pe_interpolation": 2.0},
        trainer={"init_from": parent, **trainer},
    )
    return load_config(child)


def _parent(config: RunConfig) -> Run:
    start = start_of(config)
    assert isinstance(start, RunStart)
    return start.run


def test_a_preset_is_trained_first_and_its_weights_are_the_start(tmp_path: Path) -> None:
    config = _child(tmp_path, keep="best")
    config.optim.lr = 1e-12  # so that the child ends where it starts
    begun = time.time()
    run = train(config)
    took, parent = time.time() - begun, _parent(config)
    assert run.is_done() and parent.is_done() and run.id != parent.id
    assert run.status().device_seconds + parent.status().device_seconds <= took, "the parent's time counts once"
    ours, theirs = (load_generator(c, r, torch.device("cpu")) for c, r in ((config, run), (parent.config(), parent)))
    for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=key)
    assert ours.config.grid_size == 2 * theirs.config.grid_size
    origin, parents = (json.loads(each.result_path.read_text())["provenance"] for each in (run, parent))
    assert origin["backends"] == parents["backends"] and origin["started_at"] >= parents["finished_at"]
    started = origin["started_from"]
    assert started["fingerprint"] == training_hash(parent.config()) and len(started["weights_sha256"]) == 64


def test_the_start_is_part_of_the_identity_but_not_its_place(tmp_path: Path) -> None:
    config = _child(tmp_path)
    parent = load_config(tiny_preset(tmp_path, "parent"))
    assert config.trainer.init_fingerprint == training_hash(parent)
    moved = tmp_path / "elsewhere.yaml"
    moved.write_text((tmp_path / "parent.yaml").read_text())
    same = load_config(str(tmp_path / "child.yaml"), {"trainer.init_from": str(moved)})
    assert run_id(same) == run_id(config)
    changed = tiny_preset(tmp_path, "o", optim={"lr": 0.02})
    other = load_config(str(tmp_path / "child.yaml"), {"trainer.init_from": changed})
    assert run_id(other) != run_id(config)
    seeded = load_config(str(tmp_path / "child.yaml"), {"seed": 3})
    start = start_of(seeded)
    assert isinstance(start, RunStart) and start.config.seed == 3


@pytest.mark.parametrize("start", ["file", "preset"])
def test_a_start_that_is_replaced_while_a_run_waits_is_refused(tmp_path: Path, start: str) -> None:
    preset = Path(tiny_preset(tmp_path, "parent"))
    weights = tmp_path / "w.safetensors"
    parent = load_config(str(preset))
    save_safetensors(weights, build_network(parent).state_dict(), {})
    name = {"file": str(weights), "preset": str(preset)}[start]
    config = load_config(tiny_preset(tmp_path, "child", trainer={"init_from": name}))
    if start == "file":
        save_safetensors(weights, {k: v + 1 for k, v in build_network(parent).state_dict().items()}, {})
    else:
        tiny_preset(tmp_path, "parent", optim={"lr": 0.5})
    with pytest.raises(UserError, match=f"trainer.init_from={name} is not what .* its trainer.init_fingerprint was"):
        train(config)
    assert [run.id for run in RunStore(config.root).runs()] == [run_id(config)], "no other parent was trained"


def test_a_file_may_go_while_the_run_that_started_from_it_is_trained(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_safetensors(weights, build_network(load_config(tiny_preset(tmp_path, "parent"))).state_dict(), {})
    config = load_config(tiny_preset(tmp_path, "child", trainer={"init_from": str(weights), "max_steps": 2}))

    class Remove(L.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            weights.unlink(missing_ok=True)

    result = train(config, callbacks=[Remove()]).result()
    assert result is not None
    assert result["provenance"]["started_from"]["fingerprint"] == config.trainer.init_fingerprint


def test_unknown_starts_and_circles_are_one_sentence(tmp_path: Path) -> None:
    preset = tiny_preset(tmp_path, "parent")
    for name, words in (("dimba-00000000", "neither a preset"), ("x.safetensors", "is not there")):
        with pytest.raises(UserError, match=words):
            load_config(preset, {"trainer.init_from": name})
    tiny_preset(tmp_path, "parent", trainer={"init_from": preset})
    with pytest.raises(UserError, match="start from each other"):
        load_config(preset)


def test_a_parent_of_another_network_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    parent = tiny_preset(tmp_path, "parent", generator={"width": 32})
    config = load_config(tiny_preset(tmp_path, "child", trainer={"init_from": parent}))
    for begin in (start_of(config).check, train):
        with pytest.raises(UserError, match=r"trainer.init_from=.*parent.yaml: .* does not fit this network: .*shape"):
            begin(config)
    assert not _parent(config).folder.exists()


def test_a_parent_whose_files_are_not_named_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    config = load_config("dimba/l-1024", {"runtime.root": str(tmp_path)})
    said = "trainer.init_from=dimba/l is trained first, and arguments do not reach .*: The tokenizer kl has no weights"
    with pytest.raises(UserError, match=f"{said} .* ablate train dimba/l KEY=VALUE.* trainer.init_from=RUN"):
        start_of(config).check(config)
    first = tiny_preset(tmp_path, "first", data={"subset": 4})
    second = tiny_preset(tmp_path, "second", trainer={"init_from": first})
    third = load_config(tiny_preset(tmp_path, "third", trainer={"init_from": second}))
    with pytest.raises(UserError, match="trainer.init_from=.*first.yaml is trained first, .*batch"):
        start_of(third).check(third)
    finished(load_config(second))
    start_of(third).check(third)  # whatever its parent once started from


def test_a_file_of_another_network_is_refused_before_a_run_is_begun(ablate, tmp_path: Path) -> None:
    wide = load_config(tiny_preset(tmp_path, "wide", generator={"width": 32}))
    file = tmp_path / "wide.safetensors"
    save_safetensors(file, build_network(wide).state_dict(), {})
    preset, words = tiny_preset(tmp_path, "tiny"), ["--root", tmp_path / "out", f"trainer.init_from={file}"]
    code, _, err = ablate("train", preset, *words)
    assert code == 2 and f"trainer.init_from={file}: {file} does not fit this network: keys" in err
    file.write_bytes(b"no weights")
    code, _, err = ablate("train", preset, *words)
    assert code == 2 and f"{file} is damaged" in err
    assert not (tmp_path / "out").exists()


def test_a_parent_must_suit_the_devices_that_it_is_trained_on(tmp_path: Path) -> None:
    """Its own preset says one device; on three its batch of 8 would silently be one of 6."""
    parent = tiny_preset(tmp_path, "parent")
    child = tiny_preset(tmp_path, "child", trainer={"init_from": parent, "batch_size": 9})
    assert _parent(load_config(child)).id == run_id(load_config(parent))
    with pytest.raises(UserError, match=r"trainer.init_from=.*parent.yaml: trainer.batch_size=8 must be a multiple of"):
        load_config(child, {"runtime.devices": 3})


@pytest.mark.parametrize("start", ["file", "run", "preset"])
def test_a_finished_run_does_without_what_it_started_from(ablate, tmp_path: Path, start: str) -> None:
    preset = tiny_preset(tmp_path, "parent")
    parent = finished(load_config(preset))
    name = {"file": str(shutil.copy(parent.final_weights, tmp_path / "w.safetensors")), "run": parent.id}
    child = tiny_preset(tmp_path, "child", trainer={"init_from": name.get(start, preset)})
    run = finished(load_config(child))
    before = run.config()
    lost = {"file": Path(name["file"]), "run": parent.folder, "preset": Path(preset)}[start]
    lost.rename(tmp_path / "lost")
    assert run.config() == before and before.trainer.init_fingerprint
    words = ("sample", run.id, "--root", tmp_path / "out", "--count", 2, "runtime.threads=1")
    code, _, err = ablate(*words, "--out", tmp_path / "x.png")
    assert code == 0 and (tmp_path / "x.png").exists(), err
    code, _, err = ablate("execute", "--part", "train", run.config_path)
    assert code == 2 and str(name.get(start, preset)) in err, "which trains, and needs it"
