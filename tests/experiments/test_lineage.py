"""Runs that start from other runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.config import load_config
from experiments.errors import UserError
from experiments.identity import run_id, training_hash
from experiments.lineage import check_start, parent_config
from experiments.run import load_generator, train
from experiments.run_config import RunConfig
from experiments.store import RunStore
from tests.experiments.configs import tiny_preset


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


def test_a_preset_is_trained_first_and_its_weights_are_the_start(tmp_path: Path) -> None:
    config = _child(tmp_path, keep="best")
    config.optim.lr = 1e-12  # so that the child ends where it starts
    run = train(config)
    parent = RunStore(config.root).run(run_id(parent_config(config)))
    assert run.is_done() and parent.is_done() and run.id != parent.id
    ours, theirs = (load_generator(c, r, torch.device("cpu")) for c, r in ((config, run), (parent.config(), parent)))
    for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=key)
    assert ours.config.grid_size == 2 * theirs.config.grid_size
    started = json.loads((run.folder / "result.json").read_text())["provenance"]["started_from"]
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
    assert parent_config(seeded).seed == 3


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
    for begin in (check_start, train):
        with pytest.raises(UserError, match=r"trainer.init_from=.*parent.yaml: .* does not fit this network: .*shape"):
            begin(config)
    assert not RunStore(config.root).run(run_id(parent_config(config))).folder.exists()
