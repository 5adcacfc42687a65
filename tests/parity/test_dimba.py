"""Dimba against the official code: its Mamba mixer and whole models, outputs and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_modules.conditions import TextFeatures
from lightning_modules.generators.configs.dimba import DimbaConfig
from lightning_modules.generators.dimba import Dimba
from lightning_modules.layers.bi_mamba import BiMamba
from lightning_modules.layers.config import BiMambaConfig
from lightning_modules.published.dimba import from_official, official_architecture, read_architecture
from tests.parity.fixtures import load

FIXTURE = load("dimba_tiny.pt")
MIXERS = [name for name, case in FIXTURE.items() if "d_model" in case["config"]]
MODELS = [name for name, case in FIXTURE.items() if "mamba_ratio" in case["config"]]


def _mixer(case: dict[str, Any], state: str) -> BiMamba:
    c = case["config"]
    config = BiMambaConfig(d_state=c["d_state"], d_conv=c["d_conv"], expand=c["expand"], divide_out=False)
    mixer = BiMamba(c["d_model"], config)
    mixer.load_state_dict(mixer.from_vim(case[state]))
    return mixer


def _model(case: dict[str, Any]) -> Dimba:
    c = case["config"]
    return Dimba(
        DimbaConfig(
            latent_channels=c["in_channels"],
            grid_size=c["input_size"],
            patch_size=c["patch_size"],
            width=c["hidden_size"],
            depth=c["depth"],
            heads=c["num_heads"],
            mlp_ratio=c["mlp_ratio"],
            text_tokens=c["model_max_length"],
            text_width=c["caption_channels"],
            pe_interpolation=c.get("pe_interpolation", 1.0),
            **official_architecture(int(c["mamba_ratio"] * c["depth"]), c["depth"]),
        )
    ).eval()


def _forward(model: Dimba, case: dict[str, Any]) -> torch.Tensor:
    inputs = case["inputs"]
    text = TextFeatures(inputs["y"][:, 0], inputs["mask"].flatten(1).bool())
    context = model.embed_condition(text, torch.zeros(len(inputs["x"]), dtype=torch.bool))
    return model(inputs["x"], context, inputs["timestep"])


def test_every_case_is_compared() -> None:
    assert MIXERS and MODELS and set(MIXERS) | set(MODELS) == set(FIXTURE)


@pytest.mark.parametrize("name", MIXERS)
def test_mixer_equals_official(name: str) -> None:
    case = FIXTURE[name]
    mixer, x = _mixer(case, "state_dict"), case["inputs"]["x"].clone().requires_grad_()
    y = mixer(x)
    torch.testing.assert_close(y, case["outputs"]["y"], rtol=1e-4, atol=1e-6)
    y.square().mean().backward()
    torch.testing.assert_close(x.grad, case["grads"]["x"], rtol=1e-4, atol=1e-6)
    _same_gradients(mixer, mixer.from_vim(case["grads"]))


@pytest.mark.parametrize("name", MODELS)
def test_model_equals_official(name: str) -> None:
    case = FIXTURE[name]
    model = _model(case)
    model.load_state_dict(from_official(model, case["state_dict"]))
    out = _forward(model, case)
    torch.testing.assert_close(out, case["outputs"]["out"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.position, case["outputs"]["pos_embed"], rtol=1e-5, atol=1e-6)
    out.square().mean().backward()
    _same_gradients(model, from_official(model, case["grads"]))


@pytest.mark.parametrize("name", MODELS)
def test_every_block_equals_official(name: str) -> None:
    """Where a whole model differs, this says in which block first."""
    case = FIXTURE[name]
    model, found = _model(case), {}
    model.load_state_dict(from_official(model, case["state_dict"]))
    watched = {f"blocks.{i}": block for i, block in enumerate(model.blocks)}
    watched |= {f"mamba_blocks.{i}.hidden": block for i, block in enumerate(model.mamba_blocks)}
    for key, block in {**watched, "x_embedder": model.patch_embed, "t_embedder": model.time}.items():
        block.register_forward_hook(lambda module, inputs, output, key=key: found.update({key: output}))
    _forward(model, case)
    found["x_embedder"] = found["x_embedder"].flatten(2).transpose(1, 2)
    for key, expected in case["intermediates"].items():
        if key in found:
            torch.testing.assert_close(found[key], expected, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize(
    ("depth", "blocks"), [(4, [0, 1, 2, 3]), (4, [1, 3]), (5, [1, 3]), (7, [1, 4]), (49, [1]), (3, [])]
)
def test_mamba_blocks_stand_where_the_official_loop_puts_them(depth: int, blocks: list[int]) -> None:
    order = DimbaConfig(depth=depth, **official_architecture(len(blocks), depth)).block_order()
    assert [order[i - 1][1] for i, (kind, _) in enumerate(order) if kind == "mamba"] == blocks
    assert [i for kind, i in order if kind == "mamba"] == list(range(len(blocks)))


@pytest.mark.parametrize("name", MODELS)
def test_the_architecture_is_read_from_the_weights(name: str) -> None:
    case = FIXTURE[name]
    config = _model(case).config
    found = read_architecture(case["state_dict"])
    assert {key: getattr(config, key) for key in found} == found
    others = {key: value for key, value in case["state_dict"].items() if not key.startswith("x_embedder")}
    with pytest.raises(ValueError, match="not of Dimba or PixArt"):
        read_architecture(others)


def test_every_mamba_block_of_a_checkpoint_counts() -> None:
    """1 / 49 x 49 is less than 1 in floating point."""
    state = {
        "x_embedder.proj.weight": torch.zeros(32, 4, 2, 2),
        "y_embedder.y_embedding": torch.zeros(3, 8),
        "final_layer.linear.weight": torch.zeros(16, 32),
        "mamba_blocks.0.norm.weight": torch.zeros(32),
        **{f"blocks.{i}.scale_shift_table": torch.zeros(6, 32) for i in range(49)},
    }
    assert read_architecture(state)["attention_mamba_ratio"] == "49:1"


def test_a_count_that_breaks_the_official_loop_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot build 3 Mamba blocks among 4 Transformer blocks"):
        official_architecture(3, 4)


def _same_gradients(module: torch.nn.Module, expected: dict[str, torch.Tensor]) -> None:
    ours = dict(module.named_parameters())
    assert ours.keys() == expected.keys()
    for key, parameter in ours.items():
        torch.testing.assert_close(
            parameter.grad, expected[key], rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}"
        )
