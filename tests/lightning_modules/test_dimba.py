"""Dimba: parameter counts, order of blocks, conditions, equality with diffusers' PixArt; every switch is alive."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from experiments.config import load_config
from lightning_modules.conditions import Condition, TextFeatures
from lightning_modules.generators.config import GENERATORS
from lightning_modules.generators.configs.dimba import DimbaConfig
from lightning_modules.generators.dimba import Dimba
from lightning_modules.layers.config import BiMambaConfig

TEXT = DimbaConfig(latent_channels=4, grid_size=8, width=32, depth=4, heads=4, text_tokens=5, text_width=16)
CLASS = DimbaConfig(latent_channels=4, grid_size=8, width=32, depth=4, heads=4, condition="class", num_classes=3)


def _build(config: DimbaConfig, seed: int = 0) -> Dimba:
    """A model in which nothing is closed: the published start has zeros that would hide faults."""
    torch.manual_seed(seed)
    model = GENERATORS.build(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def _condition(config: DimbaConfig, count: int = 2) -> Condition:
    if config.condition == "class":
        return torch.arange(count) % config.num_classes
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(count, config.text_tokens, config.text_width, generator=generator)
    mask = torch.arange(config.text_tokens) < torch.tensor([[3], [config.text_tokens]])[:count]
    return TextFeatures(features, mask)


def _output(model: Dimba, latents: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
    if latents is None:
        size = model.config.grid_size
        latents = torch.randn(2, 4, size, size, generator=torch.Generator().manual_seed(1))
    drop = torch.tensor([False, True]) if drop is None else drop
    context = model.embed_condition(_condition(model.config, len(latents)), drop)
    return model(latents, context, torch.tensor([13.0, 700.0])[: len(latents)])


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("l", 859_517_600),
        ("official", 859_517_600),
        ("l-1024", 859_517_600),
        ("l-ratio-2-1", 735_186_848),
        ("pixart-xl", 610_856_096),
        ("g", 1_819_807_648),
        ("g-ratio-2-1", 1_555_863_968),
    ],
)
def test_published_sizes(preset: str, count: int) -> None:
    config = load_config(f"dimba/{preset}").generator
    with torch.device("meta"):
        model = Dimba(config)
    assert sum(p.numel() for p in model.parameters()) == count
    assert (config.latent_channels, config.text_width) == (4, 4096)


@pytest.mark.parametrize(
    ("changes", "order"),
    [
        ({}, "TMTMTMTM"),
        ({"mamba_position": "before"}, "MTMTMTMT"),
        ({"attention_mamba_ratio": "1:2"}, "TMMTMMTMMTMM"),
        ({"attention_mamba_ratio": "2:1"}, "TTMTTM"),
        ({"attention_mamba_ratio": "2:1", "mamba_position": "before"}, "MTTMTT"),
        ({"attention_mamba_ratio": "4:1"}, "TTTTM"),
        ({"attention_mamba_ratio": "4:1", "mamba_group_place": "second"}, "TTMTT"),
        ({"attention_mamba_ratio": "3:1"}, "TTTMT"),
        ({"attention_mamba_ratio": "3:2"}, "TTTMMT"),
        ({"attention_mamba_ratio": "1:0"}, "TTTT"),
    ],
)
def test_order_of_blocks(changes: dict, order: str) -> None:
    config = replace(TEXT, **changes)
    found = config.block_order()
    assert "".join(kind[0].upper() for kind, _ in found) == order
    for kind, count in (("transformer", config.depth), ("mamba", config.mamba_depth)):
        assert [i for k, i in found if k == kind] == list(range(count))
    assert len(Dimba(config).mamba_blocks) == config.mamba_depth


SWITCHES = [
    {"attention_mamba_ratio": "2:1"},
    {"attention_mamba_ratio": "1:2"},
    {"mamba_position": "before"},
    {"mamba_adaln": True},
    {"mamba_residual": "official"},
    {"mamba_residual": "official", "mamba_adaln": True},
    {"bi_mamba": BiMambaConfig(divide_out=True)},
    {"adaln": "group"},
    {"adaln": "group", "adaln_groups": 3},
    {"adaln": "per_layer", "mamba_adaln": True},
    {"pe_interpolation": 2.0},
    {"patch_size": 4},
    {"learned_variance": False},
    {"mlp_ratio": 2.0},
    {"heads": 2},
    {"null_mask": "prompt"},
    {"condition": "class", "num_classes": 3},
]


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_every_switch_changes_the_model(changes: dict) -> None:
    base, changed = _build(TEXT), _build(replace(TEXT, **changes))
    state, other = base.state_dict(), changed.state_dict()
    if state.keys() == other.keys() and all(state[k].shape == other[k].shape for k in state):
        changed.load_state_dict(state)  # equal weights, so only the switch can make a difference
        drop = torch.tensor([True, False])  # the null caption stands where a caption has padding
        assert not torch.allclose(_output(base, drop=drop), _output(changed, drop=drop))
    assert _output(changed).shape == (2, changed.config.out_channels, 8, 8)


def test_every_position_sees_every_other() -> None:
    for config in (TEXT, CLASS, replace(TEXT, mamba_position="before", attention_mamba_ratio="1:2")):
        model = _build(config)
        latents = torch.zeros(2, 4, 8, 8)
        base = _output(model, latents)
        latents[:, :, 0, 0] += 1
        assert ((_output(model, latents) - base).abs().amax(1) > 0).all()


def test_the_official_start_and_the_standard_one() -> None:
    torch.manual_seed(0)
    standard, official = Dimba(TEXT), Dimba(replace(TEXT, init="official"))
    for model in (standard, official):
        assert _output(model).abs().max() == 0  # the head is closed
        assert all((block.cross_attention.out_proj.weight == 0).all() for block in model.blocks)
        assert model.adaln.table.std().item() == pytest.approx(32**-0.5, rel=0.2)
    dt = [torch.nn.functional.softplus(m.mamba_blocks[0].mixer.ssm.dt_bias) for m in (standard, official)]
    assert dt[0].max() < 0.11 and torch.allclose(dt[1], torch.tensor(0.6931), atol=1e-4)


def test_the_official_start_shrinks_the_last_matrices() -> None:
    """Of MLPs and Mamba blocks, by the root of the Mamba depth; the patch embedding keeps PyTorch's bias."""
    torch.manual_seed(0)
    standard, official = Dimba(TEXT), Dimba(replace(TEXT, init="official", attention_mamba_ratio="2:1"))
    assert not standard.patch_embed.bias.any()
    bias = official.patch_embed.bias
    assert 0 < bias.abs().max() <= 16**-0.5 and bias.unique().numel() == len(bias)
    last = [official.condition.project[2], *(block.mlp[2] for block in official.blocks)]
    for linear in (*last, *(block.mixer.out_proj for block in official.mamba_blocks)):
        bound = (linear.in_features * 2) ** -0.5
        assert 0.95 * bound < linear.weight.abs().max() <= bound * 1.0001 and not (linear.weight == 0).any()
    pure = Dimba(replace(TEXT, init="official", attention_mamba_ratio="1:0"))  # PixArt, whose code has none of this
    assert pure.patch_embed.bias.any()
    assert pure.blocks[0].mlp[2].weight.abs().max().item() == pytest.approx((6 / (128 + 32)) ** 0.5, rel=0.05)
    assert pure.condition.project[2].weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert Dimba(replace(CLASS, init="official")).patch_embed.bias.any()


def test_padding_and_dropped_captions_are_not_seen() -> None:
    model = _build(TEXT)
    text = _condition(TEXT)
    latents, t = torch.zeros(2, 4, 8, 8), torch.zeros(2)
    drop = torch.tensor([False, True])
    base = model(latents, model.embed_condition(text, drop), t)
    noisy = text.features.clone()
    noisy[0, 3:] = 9.0  # padding
    noisy[1] = 9.0  # a dropped caption
    assert torch.equal(base, model(latents, model.embed_condition(TextFeatures(noisy, text.mask), drop), t))
    noisy[0, :3] = 9.0
    assert not torch.equal(base, model(latents, model.embed_condition(TextFeatures(noisy, text.mask), drop), t))


def test_the_null_caption_is_kept_but_not_trained() -> None:
    model = Dimba(TEXT)
    assert "condition.null" in model.state_dict()
    assert "condition.null" not in dict(model.named_parameters())


def test_the_null_caption_is_seen_in_full_or_as_far_as_the_prompt() -> None:
    text, drop = _condition(TEXT), torch.tensor([True, True])
    assert Dimba(TEXT).embed_condition(text, drop).mask.all()
    assert torch.equal(Dimba(replace(TEXT, null_mask="prompt")).embed_condition(text, drop).mask, text.mask)


def test_dropped_class_is_the_null_class() -> None:
    model = _build(CLASS)
    context = model.embed_condition(torch.tensor([0, 2]), torch.tensor([True, True]))
    assert torch.equal(context.vector[0], context.vector[1])
    assert torch.equal(context.vector[0], model.condition.table.weight[-1])
    assert model.blocks[0].cross_attention is None


def test_another_resolution_is_the_same_model_at_interpolated_positions() -> None:
    small = _build(TEXT)
    large = Dimba(replace(TEXT, grid_size=16, pe_interpolation=2.0)).eval()
    large.load_state_dict(small.state_dict())  # no table of positions among the weights
    grid = large.position.reshape(8, 8, -1)[::2, ::2].flatten(0, 1)
    torch.testing.assert_close(grid, small.position)
    latents = torch.randn(2, 4, 16, 16)
    torch.testing.assert_close(_output(large, latents), _output(small, latents))  # sizes other than its own
    assert _output(small, torch.randn(2, 4, 8, 12)).shape == (2, 8, 8, 12)


@pytest.mark.parametrize("adaln", [True, False])
def test_mamba_blocks_that_say_nothing_leave_the_transformer(adaln: bool) -> None:
    mixed = _build(replace(TEXT, mamba_adaln=adaln))
    for block in mixed.mamba_blocks:
        torch.nn.init.zeros_(block.mixer.out_proj.weight)
    pure = Dimba(replace(TEXT, attention_mamba_ratio="1:0")).eval()
    pure.load_state_dict({key: value for key, value in mixed.state_dict().items() if "mamba" not in key})
    torch.testing.assert_close(_output(mixed), _output(pure))


def test_positions_tell_the_column_first_whatever_the_sides() -> None:
    model = _build(TEXT)
    table = model._positions(3, 5, torch.zeros(1)).unflatten(0, (3, 5))
    column, row = table.chunk(2, dim=-1)
    omega = 10_000 ** -(torch.arange(8) / 8)
    # Stretched over the coordinates 0 .. 4 of the model's own grid.
    for found, place, side in ((column, torch.arange(5)[None, :, None], 5), (row, torch.arange(3)[:, None, None], 3)):
        angle = (place / (side / 4) * omega).expand(3, 5, 8)
        torch.testing.assert_close(found, torch.cat([angle.sin(), angle.cos()], dim=-1), rtol=1e-5, atol=1e-6)


def test_classes_and_gates_are_heard() -> None:
    model, latents = _build(CLASS), torch.randn(1, 4, 8, 8).expand(2, -1, -1, -1)
    same = torch.zeros(2)
    first, second = model(latents, model.embed_condition(torch.tensor([0, 1]), same.bool()), same)
    assert not torch.allclose(first, second, atol=1e-3)
    block, x = _build(replace(TEXT, mamba_adaln=True)).mamba_blocks[0], torch.randn(2, 16, 32)
    shift, scale, gate = modulation = torch.randn(3, 2, 32)
    normed = torch.nn.functional.layer_norm(x, (32,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
    torch.testing.assert_close(block(x, modulation.transpose(0, 1)), gate[:, None] * block.mixer(normed))


def test_gradient_checkpointing_changes_nothing() -> None:
    model, other = _build(TEXT).train(), _build(replace(TEXT, gradient_checkpointing=True)).train()
    other.load_state_dict(model.state_dict())
    for m in (model, other):
        _output(m).square().mean().backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_mamba_ratio": "0:1"}, "of the form A:M"),
        ({"attention_mamba_ratio": "5:1"}, "asks for 5 Transformer blocks"),
        ({"width": 30}, "multiple of 4"),
        ({"patch_size": 3}, "not a multiple of generator.patch_size"),
        ({"adaln": "group", "adaln_groups": 5}, "1 .. depth=4"),
        ({"attention_mamba_ratio": "4:1", "mamba_position": "before", "mamba_group_place": "second"}, "place=edge"),
        ({"prediction": "flow"}, "learned_variance=false"),
        ({"pe_interpolation": 0}, "positive"),
        ({"mlp_ratio": 0.0}, "mlp_ratio=0.0 must be at least 0.03125"),
        ({"mlp_ratio": -1.0}, "mlp_ratio=-1.0 must be at least"),
    ],
)
def test_bad_architecture_is_one_sentence(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(TEXT, **changes)


def test_equal_to_pixart_of_diffusers() -> None:
    """The pure Transformer is PixArt: diffusers' implementation gives the same output from the same weights."""
    from diffusers import PixArtTransformer2DModel

    config = replace(TEXT, attention_mamba_ratio="1:0", depth=2)
    model = _build(config)
    theirs = PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=32,
        sample_size=8,
        patch_size=2,
        caption_channels=16,
        interpolation_scale=1,
        use_additional_conditions=False,
    ).eval()
    theirs.load_state_dict(_as_diffusers(model.state_dict()), strict=False)
    text = _condition(config)
    latents, t = torch.randn(2, 4, 8, 8), torch.tensor([13.0, 700.0])
    with torch.no_grad():
        expected = theirs(latents, text.features, t, encoder_attention_mask=text.mask).sample
        ours = model(latents, model.embed_condition(text, torch.zeros(2, dtype=torch.bool)), t)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def _as_diffusers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {
        "patch_embed.": "pos_embed.proj.",
        "time.mlp.0.": "adaln_single.emb.timestep_embedder.linear_1.",
        "time.mlp.2.": "adaln_single.emb.timestep_embedder.linear_2.",
        "adaln.project.": "adaln_single.linear.",
        "condition.project.0.": "caption_projection.linear_1.",
        "condition.project.2.": "caption_projection.linear_2.",
        "head.table": "scale_shift_table",
        "head.linear.": "proj_out.",
        "attention.out_proj.": "attn1.to_out.0.",
        "cross_attention.out_proj.": "attn2.to_out.0.",
        "cross_attention.q.": "attn2.to_q.",
        "mlp.0.": "ff.net.0.proj.",
        "mlp.2.": "ff.net.2.",
    }
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        block, name = "", key
        if key.startswith("blocks."):
            _, i, name = key.split(".", 2)
            block = f"transformer_blocks.{i}."
        if key == "adaln.table":
            result |= {f"transformer_blocks.{i}.scale_shift_table": table for i, table in enumerate(value)}
        elif name.startswith(("attention.qkv.", "cross_attention.kv.")):
            kind = name.rsplit(".", 1)[1]
            own, parts = ("attn1", "qkv") if "qkv" in name else ("attn2", "kv")
            result |= {f"{block}{own}.to_{p}.{kind}": v for p, v in zip(parts, value.chunk(len(parts)), strict=True)}
        else:
            match = [old for old in names if name.startswith(old)]
            result |= {block + names[old] + name.removeprefix(old): value for old in match}
    return result
