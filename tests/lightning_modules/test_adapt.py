"""Weights for another resolution: the image's rows of learned position tables are resized, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.config import load_config
from lightning_modules.adapt import adapt
from lightning_modules.generators.config import GENERATORS
from lightning_modules.generators.configs.aim import AiMConfig
from lightning_modules.generators.configs.maskmamba import MaskMambaConfig
from lightning_modules.layers.config import Mamba2Config

DEMOS = ("maskmamba/demo", "aim/demo", "aim/llamagen-demo", "dimba/demo", "mmamba/demo", "mmamba/uvit-demo")
SMALL: Any = {"vocab_size": 32, "grid_size": 4, "num_classes": 3, "width": 32, "depth": 2}
TEXT: Any = {**SMALL, "condition": "text", "text_tokens": 5, "text_width": 8}
SHARED = MaskMambaConfig(**TEXT, heads=2, position_tables="shared")
AIM = AiMConfig(**SMALL, mamba2=Mamba2Config(d_state=8, head_width=16), adaln_groups=2)
# Configuration -> key of its table, and where the rows stand that are of no image position, by the grid's side.
TABLES = {
    "aim": (AIM, "position_embedding.weight", lambda side: slice(side**2, side**2 + 1)),
    "separate": (MaskMambaConfig(**TEXT, heads=2), "position_image", lambda side: slice(0, 0)),
    "class, shared": (
        MaskMambaConfig(**SMALL, heads=2, position_tables="shared"),
        "position_sequence",
        lambda side: slice(side**2 // 2, side**2 // 2 + 1),
    ),
    "head": (replace(SHARED, condition_position="head"), "position_sequence", lambda side: slice(0, 5)),
    "middle": (SHARED, "position_sequence", lambda side: slice(side**2 // 2, side**2 // 2 + 5)),
    "tail": (
        replace(SHARED, condition_position="tail"),
        "position_sequence",
        lambda side: slice(side**2, side**2 + 5),
    ),
}


def _build(config: Any, side: int, device: str = "cpu") -> nn.Module:
    with torch.device(device):
        return GENERATORS.build(replace(config, grid_size=side))


def _split(table: Tensor, others: slice) -> tuple[Tensor, Tensor]:
    """Rows of the image, other rows."""
    return torch.cat([table[: others.start], table[others.stop :]]), table[others]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(("old", "new"), [(4, 8), (3, 6), (8, 4)])
def test_a_table_is_interpolated_over_the_image(name: str, old: int, new: int) -> None:
    config, key, others = TABLES[name]
    parent, child = _build(config, old), _build(config, new)
    weights = {k: v.clone() for k, v in parent.state_dict().items()}
    # As training leaves it, smooth: a plane over rows and columns, of another slope in every channel.
    y, x = torch.meshgrid(torch.arange(old) + 0.5, torch.arange(old) + 0.5, indexing="ij")
    slopes = torch.stack([torch.linspace(-1, 1, 32), torch.linspace(1, 0, 32)])
    plane = ((y / old)[..., None] * slopes[0] + (x / old)[..., None] * slopes[1]).flatten(0, 1)
    _, spare = _split(weights[key], others(old))
    start = others(old).start
    weights[key] = torch.cat([plane[:start], spare, plane[start:]])
    state, resized = adapt("weights", weights, child)
    assert resized == [key]
    child.load_state_dict(state)
    image, kept = _split(state[key], others(new))
    assert torch.equal(kept, spare)
    y, x = torch.meshgrid(torch.arange(new) + 0.5, torch.arange(new) + 0.5, indexing="ij")
    wanted = (y / new)[..., None] * slopes[0] + (x / new)[..., None] * slopes[1]
    inside = slice(new // 2 - 1, new // 2 + 1)  # where the interpolation does not see the edge
    image_inside = image.unflatten(0, (new, new))[inside, inside]
    torch.testing.assert_close(image_inside, wanted[inside, inside], rtol=0, atol=0.1)
    torch.testing.assert_close(image.mean(0), plane.mean(0), rtol=0, atol=1e-4)
    assert all(torch.equal(state[k], v) for k, v in weights.items() if k != key)


@pytest.mark.parametrize("preset", DEMOS)
def test_every_generator_starts_from_another_resolution(preset: str) -> None:
    """Of its state nothing but the declared tables depends on the grid."""
    config = load_config(preset).generator
    side = config.grid_size
    found = _build(config, side, "meta").state_dict()
    child = _build(config, 2 * side, "meta")
    state, resized = adapt("weights", found, child)
    assert {key: value.shape for key, value in state.items()} == {k: v.shape for k, v in child.state_dict().items()}
    assert sorted(k for k, v in found.items() if v.shape != state[k].shape) == resized


def test_no_generator_is_left_out() -> None:
    assert {load_config(preset).generator.name for preset in DEMOS} == set(GENERATORS.names())


@pytest.mark.parametrize(("rows", "width"), [(16, 32), (1, 32), (18, 32), (65, 16)])
def test_a_table_that_is_no_grid_is_refused_by_name(rows: int, width: int) -> None:
    child = _build(AIM, 8)
    weights = {**child.state_dict(), "position_embedding.weight": torch.zeros(rows, width)}
    with pytest.raises(ValueError, match=r"position_embedding.weight of old.safetensors cannot be resized from \(\d+"):
        adapt("old.safetensors", weights, child)


def test_other_weights_are_never_resized() -> None:
    child = _build(AIM, 8)
    weights = {**child.state_dict(), "norm.weight": torch.zeros(31)}
    with pytest.raises(ValueError, match="1 of another shape"):
        adapt("old.safetensors", weights, child)
