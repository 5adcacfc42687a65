"""Small configurations: for tests of the store without weights and torch, and one that trains in a second."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from experiments.config import build_config
from experiments.run_config import RunConfig
from experiments.store import Run, RunStore

TINY = {
    "data": {"name": "emoji", "styles": ["twemoji"], "subset": 24},
    "tokenizer": {"name": "pixels", "downsample": 4},
    "generator": {"name": "dimba", "width": 16, "depth": 1, "heads": 2, "condition": "class"},
    "objective": {"name": "diffusion"},
    "optim": {"lr": 0.01},
    "trainer": {"max_steps": 2, "batch_size": 8, "ema_decay": 0.5},
    "sampler": {"name": "dpm_solver", "steps": 2},
    "runtime": {
        "val_every": 1,
        "sample_every": 0,
        "checkpoint_every": 1,
        "log_every": 1,
        "progress": False,
        "device": "cpu",
    },
}
"""Diffusion of 8x8 pixels: two steps take a moment."""


def tiny_preset(folder: Path, name: str, **sections: dict) -> str:
    """Write TINY with other values as a preset; its outputs go to folder/out. Returns its path."""
    raw = {key: {**TINY.get(key, {}), **sections.get(key, {})} for key in TINY | sections}
    raw["runtime"]["root"] = str(folder / "out")
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(raw))
    return str(folder / f"{name}.yaml")


def small_config(**overrides: object) -> RunConfig:
    """A tiny run with a random tokenizer; overrides with `__` for the dot, e.g. trainer__max_steps=3."""
    raw = {
        "tokenizer": {"weights": ""},
        "generator": {"width": 32, "heads": 2, "depth": 2},
        "trainer": {"max_steps": 10},
    }
    return build_config(raw, {key.replace("__", "."): value for key, value in overrides.items()})


def finished(config: RunConfig) -> Run:
    """A run that passes for trained: random weights and a result."""
    from experiments.networks import build_network
    from lightning_modules.checkpoints import save_safetensors

    run = RunStore(config.root).prepare(config)
    run.checkpoints.mkdir()
    save_safetensors(run.final_weights, build_network(config).state_dict(), {})
    steps = config.trainer.max_steps
    run.result_path.write_text(json.dumps({"step": steps, "max_steps": steps, "metrics": {}}))
    return run


COUNT = 22
"""Images that `config_in` asks for."""


def config_in(root: Path, batch_size: int = 4) -> RunConfig:
    """A tiny generator with the embedded tokenizer, whose outputs go to `root`."""
    raw = {
        "generator": {"width": 16, "heads": 2, "depth": 2},
        "sampler": {"steps": 2},
        "evaluation": {"num_samples": COUNT, "batch_size": batch_size},
        "runtime": {"root": str(root), "threads": 1},
    }
    return build_config(raw)


def run_under(root: Path) -> Run:
    """The only run under `root`."""
    (run,) = RunStore(root).runs()
    return run
