"""LlamaGen: published parameter counts, causality, cached decoding equal to the full forward, captions, switches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_modules.conditions import Condition, TextFeatures
from lightning_modules.generators.config import GENERATORS
from lightning_modules.generators.configs.llamagen import LlamaGenConfig
from lightning_modules.generators.llamagen import LlamaGen, State
from lightning_modules.layers.rotary import rotate, rotation_table

SMALL = LlamaGenConfig(
    vocab_size=32, grid_size=4, num_classes=3, width=32, depth=2, heads=2, mlp_multiple=8, dropout=0.0
)
CAPTION = replace(SMALL, condition="text", text_tokens=5, text_width=8)
LENGTH = 16


def _build(config: LlamaGenConfig) -> LlamaGen:
    """With random weights throughout: a fresh output projection is zero."""
    torch.manual_seed(0)
    model = GENERATORS.build(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def _condition(config: LlamaGenConfig, count: int = 3) -> Condition:
    if config.condition == "class":
        return torch.arange(count) % config.num_classes
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([5, 2, 3])[:count, None]
    mask = torch.arange(config.text_tokens) < lengths
    features = torch.randn(count, config.text_tokens, config.text_width, generator=generator)
    return TextFeatures(features * mask[..., None], mask)


def _context(model: LlamaGen, drop: bool = False):
    return model.embed_condition(_condition(model.config), torch.full((3,), drop))


def _tokens() -> Tensor:
    return torch.randint(0, 32, (3, LENGTH), generator=torch.Generator().manual_seed(2))


# The counts that LlamaGen's and AiM's papers round to 111M, 343M and 775M.
@pytest.mark.parametrize(
    ("depth", "width", "heads", "count", "millions"),
    [(12, 768, 12, 110_888_448, 111), (24, 1024, 16, 342_910_976, 343), (36, 1280, 20, 774_699_520, 775)],
)
def test_parameter_counts(depth: int, width: int, heads: int, count: int, millions: int) -> None:
    config = LlamaGenConfig(vocab_size=16384, grid_size=16, num_classes=1000, depth=depth, width=width, heads=heads)
    with torch.device("meta"):
        assert sum(p.numel() for p in LlamaGen(config).parameters()) == count
    assert round(count / 1e6) == millions


@pytest.mark.parametrize("config", [SMALL, CAPTION, replace(SMALL, prefix_rotation="zero")])
@torch.no_grad()
def test_cached_decoding_is_the_full_forward(config: LlamaGenConfig) -> None:
    model, tokens = _build(config), _tokens()
    context = _context(model)
    expected = model(tokens, context)
    state, logits = model.start(context, LENGTH, 3)
    places = _places(state)
    steps = [logits]
    for position in range(LENGTH - 1):
        where = position if position % 2 else torch.tensor([position])
        steps.append(model.step(tokens[:, position], state, where))
    torch.testing.assert_close(torch.stack(steps, 1), expected, rtol=1e-5, atol=1e-5)
    assert places == _places(state)
    again, logits = model.start(context, LENGTH, 3, into=state)
    assert torch.equal(logits, steps[0]) and places == _places(again)
    assert torch.equal(model.step(tokens[:, 0], again, 0), steps[1])


def _places(state: State) -> list[int]:
    others = (state.head, state.cursor, state.visible)
    return [t.data_ptr() for t in (*(t for layer in state.layers for t in layer), *others)]


@pytest.mark.parametrize("config", [SMALL, CAPTION])
@torch.no_grad()
def test_a_token_is_predicted_from_the_condition_and_those_before(config: LlamaGenConfig) -> None:
    model, tokens = _build(config), _tokens()
    base = model(tokens, _context(model))
    moved = tokens.clone()
    moved[:, 7] = (moved[:, 7] + 1) % 32
    changed = (model(moved, _context(model)) - base).abs().amax(-1) > 1e-6
    assert not changed[:, :8].any() and changed[:, 8:].all()
    assert ((model(tokens, _context(model, drop=True)) - base).abs().amax(-1) > 1e-6).all()


@torch.no_grad()
def test_padding_of_captions_leaves_no_trace() -> None:
    model, tokens = _build(CAPTION), _tokens()
    features, mask, _ = _condition(CAPTION)
    noisy = torch.where(mask[..., None], features, torch.full_like(features, 9.0))
    keep = torch.zeros(3, dtype=torch.bool)
    base = model(tokens, model.embed_condition(TextFeatures(features, mask), keep))
    assert torch.equal(base, model(tokens, model.embed_condition(TextFeatures(noisy, mask), keep)))
    assert torch.isfinite(base).all()


def test_rotation_keeps_distances_and_depends_on_offsets_alone() -> None:
    table = rotation_table(4, 8, 100.0, prefix=1)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    turned_q, turned_k = (rotate(t.expand(1, 1, 17, 8), table) for t in (q, k))
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(1, 1, 17))
    assert torch.equal(turned_q[0, 0, 0], q[0, 0, 0])  # the condition is not turned
    scores = (turned_q @ turned_k.mT)[0, 0, 1:, 1:]
    grid = scores.reshape(4, 4, 4, 4)  # row and column of the query, then of the key
    torch.testing.assert_close(grid[0, 0, 2, 1], grid[1, 2, 3, 3])
    assert not torch.isclose(grid[0, 0, 2, 1], grid[0, 0, 1, 2])  # rows and columns differ
    assert rotation_table(4, 8, 100.0, prefix=2, prefix_rotation="zero")[:2].abs().sum() == 0


def test_each_pair_of_channels_turns_by_its_own_multiple_of_the_row_or_the_column() -> None:
    """LlamaGen's formula in complex numbers: pair j of a head of width 12 by 100^(-j/3), rows first."""
    x = torch.randn(1, 1, 16, 12, generator=torch.Generator().manual_seed(0))
    row, column = torch.arange(16) // 4, torch.arange(16) % 4
    frequency = 100.0 ** -(torch.arange(3) / 3)
    angle = torch.cat([row[:, None] * frequency, column[:, None] * frequency], dim=1)
    turned = torch.view_as_complex(x.unflatten(-1, (6, 2))) * torch.polar(torch.ones(16, 6), angle)
    expected = torch.view_as_real(turned).flatten(-2)
    torch.testing.assert_close(rotate(x, rotation_table(4, 12, 100.0)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change", [{"rope_base": 10.0}, {"prefix_rotation": "zero"}, {"mlp_multiple": 64}, {"heads": 4}], ids=str
)
@torch.no_grad()
def test_every_switch_changes_the_model(change: dict) -> None:
    base, changed = _build(SMALL), _build(replace(SMALL, **change))
    assert not torch.allclose(base(_tokens(), _context(base)), changed(_tokens(), _context(changed)))


def test_a_fresh_model_guesses_evenly_and_dropout_acts() -> None:
    torch.manual_seed(0)
    model = LlamaGen(replace(SMALL, dropout=0.5))
    assert model.train()(_tokens(), _context(model)).abs().max() == 0
    torch.nn.init.normal_(model.head.weight)
    assert not torch.equal(model(_tokens(), _context(model)), model(_tokens(), _context(model)))
    model.eval()
    assert torch.equal(model(_tokens(), _context(model)), model(_tokens(), _context(model)))


def test_gradient_checkpointing_changes_nothing() -> None:
    model, other = _build(SMALL).train(), _build(replace(SMALL, gradient_checkpointing=True)).train()
    for m in (model, other):
        m(_tokens(), _context(m)).square().mean().backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"width": 36}, "multiple of 4 x"), ({"dropout": 1.0}, "dropout"), ({"depth": 0}, "depth=0")],
)
def test_bad_architecture_is_one_sentence(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)
