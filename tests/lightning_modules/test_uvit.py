"""UViT against diffusers' model, its published sizes, its weights, and what may be switched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.uvit_2d import UVit2DModel

from lightning_modules.conditions import TextFeatures
from lightning_modules.generators.configs.muse import UViTConfig
from lightning_modules.generators.uvit import UViT
from lightning_modules.layers.linear import Linear

TINY = UViTConfig(
    vocab_size=40,
    grid_size=4,
    text_tokens=5,
    text_width=12,
    pooled_width=8,
    width=32,
    depth=2,
    heads=2,
    embed_width=24,
    end_width=16,
    end_blocks=2,
    end_heads=2,
    micro_width=16,
    ff_width=48,
)
KEPT = torch.tensor([False, False, False])


@torch.no_grad()
def _decided(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter drawn anew: what starts at zero would hide errors."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def _inputs(config: UViTConfig) -> tuple[torch.Tensor, TextFeatures]:
    generator = torch.Generator().manual_seed(2)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    text = TextFeatures(torch.randn(3, 5, 12, generator=generator), mask, torch.randn(3, 8, generator=generator))
    tokens = torch.randint(0, config.vocab_size, (3, config.grid_size**2), generator=generator)
    tokens[:, ::2] = config.table_rows - 1
    return tokens, text


@pytest.mark.parametrize("resample", [False, True], ids=["amused-256", "amused-512"])
def test_equal_to_diffusers(resample: bool) -> None:
    config = replace(TINY, resample=resample)
    model = _decided(UViT(config))
    theirs = UVit2DModel(
        hidden_size=32,
        cond_embed_dim=8,
        micro_cond_encode_dim=16,
        micro_cond_embed_dim=80,
        encoder_hidden_size=12,
        vocab_size=64,
        codebook_size=40,
        in_channels=24,
        block_out_channels=16,
        num_res_blocks=2,
        downsample=resample,
        upsample=resample,
        block_num_heads=2,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        sample_size=4,
    ).eval()
    theirs.load_state_dict(model.amused.state_dict())
    tokens, text = _inputs(config)
    micro = torch.tensor(config.micro_conditions).expand(3, -1)
    expected = theirs(tokens.unflatten(1, (4, 4)), text.features, text.pooled, micro)
    ours = model(tokens, model.embed_condition(text, KEPT))
    torch.testing.assert_close(ours, expected.flatten(2).transpose(1, 2))


def test_published_sizes() -> None:
    with torch.device("meta"):
        model = UViT(UViTConfig(vocab_size=8192, grid_size=16, text_tokens=77, text_width=768, pooled_width=768))
    assert sum(p.numel() for p in model.parameters()) == 603_537_664
    assert sum(p.numel() for p in model.amused.transformer_layers.parameters()) == 513_345_536
    assert model.config.table_rows == 8256 and model.mask_token == 8255


def test_published_folder_loads(tmp_path: Path) -> None:
    source = _decided(UViT(TINY))
    source.amused.save_pretrained(tmp_path / "transformer")
    tokens, text = _inputs(TINY)
    expected = source(tokens, source.embed_condition(text, KEPT))
    for folder in (tmp_path, tmp_path / "transformer"):
        model = UViT(TINY).eval()
        model.load_published(folder)
        assert torch.equal(expected, model(tokens, model.embed_condition(text, KEPT)))
    started = UViT(replace(TINY, pretrained_ends=str(tmp_path)))
    before = started.amused.transformer_layers[0].attn1.to_q.weight.clone()
    started.start_from_published()
    assert torch.equal(
        started.amused.down_block.res_blocks[0].depthwise.weight,
        source.amused.down_block.res_blocks[0].depthwise.weight,
    )
    assert torch.equal(started.amused.transformer_layers[0].attn1.to_q.weight, before)
    with pytest.raises(ValueError, match="does not fit this network"):
        UViT(replace(TINY, end_blocks=1)).load_published(tmp_path)
    with pytest.raises(FileNotFoundError, match="as published"):
        replace(TINY, pretrained_ends=str(tmp_path / "nowhere")).resolve()
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{weights} is damaged"):
        UViT(TINY).load_published(tmp_path)


@pytest.mark.parametrize("masked", [True, False])
def test_a_dropped_caption_is_the_null_caption(masked: bool) -> None:
    model = _decided(UViT(replace(TINY, mask_padding=masked)))
    tokens, text = _inputs(TINY)
    empty = TextFeatures(*(part[1:2] for part in text))
    model.set_null_caption(empty)
    dropped = model(tokens, model.embed_condition(text, ~KEPT))
    alike = TextFeatures(*(part.expand(3, *part.shape[1:]) for part in empty))
    torch.testing.assert_close(dropped, model(tokens, model.embed_condition(alike, KEPT)))


@pytest.mark.parametrize("masked", [True, False])
def test_padding_is_read_unless_masked(masked: bool) -> None:
    model = _decided(UViT(replace(TINY, mask_padding=masked)))
    tokens, text = _inputs(TINY)
    noisy = text._replace(features=torch.where(text.mask[..., None], text.features, torch.tensor(7.0)))
    outputs = [model(tokens, model.embed_condition(t, torch.tensor([False, False, True]))) for t in (text, noisy)]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-5) == masked
    assert torch.isfinite(outputs[0]).all()


def test_captions_without_a_pooled_feature_are_averaged() -> None:
    model = _decided(UViT(replace(TINY, pooled_width=0)))
    tokens, text = _inputs(TINY)
    mean = torch.stack([f[m].mean(0) for f, m in zip(text.features, text.mask, strict=True)])
    contexts = [
        model.embed_condition(t, KEPT) for t in (text._replace(pooled=None), text._replace(features=text.features))
    ]
    torch.testing.assert_close(contexts[0].pooled, contexts[1].pooled)
    expected = model.amused.cond_embed(torch.cat([mean, model.micro.expand(3, -1)], dim=1))
    torch.testing.assert_close(contexts[0].pooled, expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": 5}, "generator.heads"),
        ({"end_heads": 3}, "generator.end_heads"),
        ({"depth": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"resample": True, "grid_size": 5}, "halves the grid"),
    ],
)
def test_bad_architecture_is_one_sentence(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


def test_gradient_checkpointing_changes_nothing() -> None:
    """diffusers' own switch breaks this model (0.42: layer_() got an unexpected keyword argument)."""
    model = _decided(UViT(TINY)).train()
    checkpointed = UViT(replace(TINY, gradient_checkpointing=True)).train()
    checkpointed.load_state_dict(model.state_dict())
    tokens, text = _inputs(TINY)
    for m in (model, checkpointed):
        m(tokens, m.embed_condition(text, KEPT)).square().mean().backward()
    for ours, theirs in zip(model.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_training_starts_at_a_uniform_guess_with_every_parameter_in_reach() -> None:
    torch.manual_seed(0)
    model = UViT(TINY).train()
    tokens, text = _inputs(TINY)
    logits = model(tokens, model.embed_condition(text, KEPT))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten() % 40)
    assert loss.item() == pytest.approx(torch.tensor(40.0).log().item(), rel=0.1)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_its_products_are_those_of_the_suite() -> None:
    """Of diffusers' modules too: what it is compared with must have no faster ones."""
    linears = [module for module in UViT(TINY).modules() if isinstance(module, torch.nn.Linear)]
    assert linears and all(type(module) is Linear for module in linears)
