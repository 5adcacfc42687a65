"""`ablate import-checkpoint dimba`: weights in the official layout become a run that samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.imports import import_dimba
from experiments.run import load_generator
from experiments.store import RunStore
from lightning_modules.generators.configs.dimba import DimbaConfig
from lightning_modules.generators.dimba import Dimba

CPU = torch.device("cpu")
MODEL = DimbaConfig(
    latent_channels=8,
    grid_size=8,
    width=32,
    depth=2,
    heads=16,
    text_tokens=16,
    text_width=128,
    attention_mamba_ratio="1:0",
    null_mask="prompt",
)


def _official(model: Dimba) -> dict[str, torch.Tensor]:
    """A PixArt state in the layout of the official code."""
    names = {
        "patch_embed.": "x_embedder.proj.",
        "time.mlp.": "t_embedder.mlp.",
        "adaln.project.": "t_block.1.",
        "condition.project.0.": "y_embedder.y_proj.fc1.",
        "condition.project.2.": "y_embedder.y_proj.fc2.",
        "condition.null": "y_embedder.y_embedding",
        "head.table": "final_layer.scale_shift_table",
        "head.linear.": "final_layer.linear.",
        "cross_attention.out_proj.": "cross_attn.proj.",
        "cross_attention.q.": "cross_attn.q_linear.",
        "cross_attention.kv.": "cross_attn.kv_linear.",
        "attention.qkv.": "attn.qkv.",
        "attention.out_proj.": "attn.proj.",
        "mlp.0.": "mlp.fc1.",
        "mlp.2.": "mlp.fc2.",
    }
    state = {"pos_embed": model.position[None]}
    for key, value in model.state_dict().items():
        block = ".".join(key.split(".")[:2]) + "." if key.startswith("blocks.") else ""
        name = key.removeprefix(block)
        if key == "adaln.table":
            state |= {f"blocks.{i}.scale_shift_table": table for i, table in enumerate(value)}
        else:
            old = next(old for old in names if name.startswith(old))
            state[block + names[old] + name.removeprefix(old)] = value
    return state


def test_a_pixart_checkpoint_becomes_a_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Dimba(MODEL)
    torch.save({"state_dict": _official(model), "epoch": 3}, tmp_path / "pixart.pth")
    overrides = {"runtime.root": str(tmp_path / "out"), "generator.prediction": "noise"}
    done = import_dimba(tmp_path / "pixart.pth", "dimba/demo", {**overrides, "generator.heads": 16})
    run = RunStore(tmp_path / "out").find(done.run_id)
    assert run.is_done() and done.keys == len(model.state_dict()) and not done.unused
    config = run.config()
    assert config.generator.attention_mamba_ratio == "1:0" and config.generator.learned_variance
    loaded = load_generator(config, run, CPU)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_another_file_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="not of Dimba or PixArt"):
        import_dimba(tmp_path / "x.pth", "dimba/demo", {"runtime.root": str(tmp_path)})
