"""`ablate import-checkpoint dimba`: weights in the official layout become a run that samples."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.advice import check_trained
from experiments.build import load_generator
from experiments.errors import UserError
from experiments.imports import Imported, import_dimba
from experiments.model_facts import build_facts
from experiments.runs import made_with, run_records
from experiments.store import RunStore
from lightning_modules.generators.configs.dimba import DimbaConfig
from lightning_modules.generators.dimba import Dimba, position_table
from lightning_modules.published.dimba import official_architecture

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
    vim = {"x_proj": "x_proj{}.weight", "dt_proj": "dt_proj{}.weight", "dt_bias": "dt_proj{}.bias", "D": "D{}"}
    state = {"pos_embed": model.position[None]}
    for key, value in model.state_dict().items():
        block = ".".join(key.split(".")[:2]) + "." if key.startswith("blocks.") else ""
        name = key.removeprefix(block)
        if key == "adaln.table":
            state |= {f"blocks.{i}.scale_shift_table": table for i, table in enumerate(value)}
        elif key.startswith("mamba_blocks."):
            block, _, part = key.partition("ssm.")
            if part == "A_log":
                state |= {f"{block}A_log": value[0], f"{block}A_b_log": value[1]}
            elif part:
                state |= {block + vim[part].format(side): v for side, v in zip(("", "_b"), value, strict=True)}
            else:
                value = value[:, None] if "conv" in key and value.dim() == 2 else value
                value = value.flip(-1) if "conv_reverse.weight" in key else value
                state[key.replace("conv_reverse.", "conv1d_b.").replace("conv.", "conv1d.")] = value
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
    assert not done.notes
    run = RunStore(tmp_path / "out").find(done.run_id)
    assert run.is_done() and done.keys == len(model.state_dict()) and not done.unused
    config = run.config()
    assert config.generator.attention_mamba_ratio == "1:0" and config.generator.learned_variance
    loaded = load_generator(config, run, CPU)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def _import_with_mamba(folder: Path, lost: str = "") -> tuple[Dimba, Imported]:
    """Import a network with Mamba blocks, whose file lacks the tensor `lost`."""
    torch.manual_seed(0)
    config = replace(MODEL, depth=4, **official_architecture(2, 4))
    model = Dimba(config)
    for parameter in model.parameters():  # all start at values of their own, so that none can be swapped unseen
        torch.nn.init.normal_(parameter)
    state = _official(model)
    assert not lost or state.pop(lost) is not None
    torch.save({"state_dict": state}, folder / "dimba.pth")
    overrides = {"runtime.root": str(folder / "out"), "generator.prediction": "noise", "generator.heads": 16}
    return model, import_dimba(folder / "dimba.pth", "dimba/demo", overrides)


def test_a_dimba_checkpoint_becomes_a_run_that_says_what_it_is(tmp_path: Path) -> None:
    model, done = _import_with_mamba(tmp_path)
    run = RunStore(tmp_path / "out").find(done.run_id)
    config, result = run.config(), run.result()
    loaded = load_generator(config, run, CPU).state_dict()
    assert len(model.mamba_blocks) == 2
    for key, value in model.state_dict().items():
        assert torch.equal(loaded[key], value), key
    words = (run.folder / "overrides.txt").read_text().splitlines()
    assert words[-1] == f"imported={config.imported}"
    assert made_with(run_records(tmp_path / "out")[0]) == "published weights"
    facts = build_facts(config)
    assert (result["parameters"], result["flops"]) == (facts.parameters, facts.flops)
    assert result["parameters"] < sum(value.numel() for value in loaded.values()), "the null caption is a buffer"
    assert result["non_embedding_parameters"] == result["parameters"], "captions need no table"
    run.result_path.unlink()
    with pytest.raises(UserError, match="ablate import-checkpoint"):
        check_trained(run)


@pytest.mark.parametrize(
    "lost", ["mamba_blocks.1.mixer.dt_proj_b.bias", "blocks.2.scale_shift_table", "blocks.1.attn.qkv.weight"]
)
def test_an_incomplete_checkpoint_is_refused_by_what_it_lacks(tmp_path: Path, lost: str) -> None:
    said = lost if "attn" not in lost else "blocks.1.attention.qkv.weight"
    with pytest.raises(ValueError, match=re.escape(said)):
        _import_with_mamba(tmp_path, lost)


def test_another_file_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="not of Dimba or PixArt"):
        import_dimba(tmp_path / "x.pth", "dimba/demo", {"runtime.root": str(tmp_path)})


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        (MODEL, ""),
        (replace(MODEL, pe_interpolation=0.5), "not those of generator.pe_interpolation=1.0"),
        (
            replace(MODEL, grid_size=16),
            "8 patches a side, this configuration for 4; multiply tokenizer.image_size by",
        ),
    ],
)
def test_positions_of_another_resolution_are_refused(tmp_path: Path, trained: DimbaConfig, said: str) -> None:
    state = _official(Dimba(MODEL)) | {"pos_embed": position_table(trained)[None].half()}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    overrides = {"runtime.root": str(tmp_path / "out"), "generator.prediction": "noise", "generator.heads": 16}
    with pytest.raises(ValueError, match=re.escape(said)) if said else nullcontext():
        import_dimba(tmp_path / "x.pth", "dimba/demo", overrides)
    assert (tmp_path / "out" / "runs").exists() == (not said)
