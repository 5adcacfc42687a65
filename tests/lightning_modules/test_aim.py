"""AiM: parameter counts, decoding token by token, captions as prefixes, and that every switch changes the model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from experiments.config import load_config
from lightning_modules.conditions import TextFeatures
from lightning_modules.generators.aim import AiM
from lightning_modules.generators.config import GENERATORS
from lightning_modules.generators.configs.aim import AiMConfig
from lightning_modules.layers.config import Mamba2Config

MIXER = Mamba2Config(d_state=8, head_width=16)
SMALL = AiMConfig(
    vocab_size=32, grid_size=4, num_classes=3, width=32, depth=3, mamba2=MIXER, adaln_groups=2, adaln_init="random"
)
TEXT = replace(SMALL, condition="text", text_tokens=5, text_width=8)
KEEP = torch.zeros(2, dtype=torch.bool)
TOKENS = torch.arange(32).reshape(2, 16) * 7 % 32


def _build(config: AiMConfig, seed: int = 0) -> AiM:
    """With every parameter moved off its start, so that no zero hides an error."""
    torch.manual_seed(seed)
    model = GENERATORS.build(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def _context(model: AiM):
    return model.embed_condition(torch.tensor([0, 2]), KEEP)


def _decode(model: AiM, context, tokens: torch.Tensor = TOKENS, into=None) -> torch.Tensor:
    state, logits = model.start(context, tokens.shape[1], len(tokens), into)
    steps = [logits]
    for k in range(tokens.shape[1] - 1):
        steps.append(model.step(tokens[:, k], state, k))
    return torch.stack(steps, dim=1)


def _captions(lengths: list[int], tokens: int = 5) -> TextFeatures:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(lengths), 5, 8, generator=generator)[:, :tokens]
    mask = torch.arange(tokens) < torch.tensor(lengths)[:, None]
    return TextFeatures(features * mask[..., None], mask)


SIZES = {"B": (768, 24), "L": (1024, 48), "XL": (1536, 48), "1B": (2048, 48)}
# Facts of the official classes: total, and without the tables of words, positions and classes (Table 3).
COUNTS = {
    ("B", "per_layer", 4): (147_622_080, 134_073_024),
    ("B", "single", 4): (106_926_528, 93_377_472),
    ("B", "group", 4): (112_241_856, 98_692_800),
    ("B", "group", 24): (147_677_376, 134_128_320),
    ("L", "per_layer", 4): (488_159_744, 470_094_336),
    ("L", "single", 4): (340_313_600, 322_248_192),
    ("L", "group", 4): (349_760_000, 331_694_592),
    ("XL", "per_layer", 4): (1_074_700_032, 1_047_601_920),
    ("XL", "single", 4): (742_043_904, 714_945_792),
    ("XL", "group", 4): (763_291_392, 736_193_280),
    ("1B", "per_layer", 4): (1_889_567_744, 1_853_436_928),
    ("1B", "single", 4): (1_298_177_024, 1_262_046_208),
    ("1B", "group", 4): (1_335_944_192, 1_299_813_376),
}


@pytest.mark.parametrize(("size", "adaln", "groups"), COUNTS)
def test_parameter_counts(size: str, adaln: str, groups: int) -> None:
    model = _imagenet(size, adaln=adaln, adaln_groups=groups)
    total = sum(p.numel() for p in model.parameters())
    tables = sum(p.numel() for name, p in model.named_parameters() if "embedding" in name or "condition" in name)
    assert (total, total - tables) == COUNTS[size, adaln, groups]


@pytest.mark.parametrize(
    ("preset", "size", "adaln"),
    [("b", "B", "per_layer"), ("l", "L", "group"), ("xl", "XL", "group"), ("1b", "1B", "group")],
)
def test_presets_are_the_published_sizes(preset: str, size: str, adaln: str) -> None:
    config = load_config(f"aim/{preset}").generator
    with torch.device("meta"):
        assert sum(p.numel() for p in AiM(config).parameters()) == COUNTS[size, adaln, 4][0]


@pytest.mark.parametrize(
    ("adaln", "position_embedding", "millions"), [("none", False, 336.754), ("none", True, 337.017)]
)
def test_counts_of_table_4(adaln: str, position_embedding: bool, millions: float) -> None:
    model = _imagenet("L", adaln=adaln, position_embedding=position_embedding)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=6e-4)


def _imagenet(size: str, **changes) -> AiM:
    width, depth = SIZES[size]
    with torch.device("meta"):
        return AiM(AiMConfig(vocab_size=16384, grid_size=16, num_classes=1000, width=width, depth=depth, **changes))


@pytest.mark.parametrize("adaln", ["none", "single", "group", "per_layer"])
def test_decoding_equals_teacher_forcing(adaln: str) -> None:
    model = _build(replace(SMALL, adaln=adaln))
    expected = model(TOKENS, _context(model))
    torch.testing.assert_close(_decode(model, _context(model)), expected, rtol=1e-5, atol=1e-5)


def test_decoding_a_caption_equals_teacher_forcing() -> None:
    model = _build(TEXT)
    context = model.embed_condition(_captions([2, 5]), KEEP)
    torch.testing.assert_close(_decode(model, context), model(TOKENS, context), rtol=1e-5, atol=1e-5)


def test_decoding_without_positions_and_in_half_precision() -> None:
    model = _build(replace(SMALL, position_embedding=False, tied_head=False, final_adaln=False))
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(TOKENS, _context(model)).float()
        state, logits = model.start(_context(model), 16, 2)
    assert state.layers[0].mixer.window.dtype == state.head.dtype == torch.bfloat16
    steps = [logits] + [model.step(TOKENS[:, k], state, k) for k in range(15)]
    difference = torch.stack(steps, 1).float() - expected
    assert difference.abs().mean() < 0.02 * expected.abs().mean()


def test_a_state_is_used_again_in_place() -> None:
    model = _build(SMALL)
    other = model.embed_condition(torch.tensor([1, 1]), ~KEEP)
    state, _ = model.start(_context(model), 16, 2)
    tensors = [t for layer in state.layers for t in (*layer.mixer, *layer[1:])] + list(state[1:4])
    places = [t.data_ptr() for t in tensors]
    assert torch.equal(_decode(model, other, into=state), _decode(model, other))
    assert [t.data_ptr() for t in tensors] == places


def test_position_may_be_a_tensor() -> None:
    model = _build(SMALL)
    states = [model.start(_context(model), 16, 2)[0] for _ in range(3)]
    number, tensor, shifted = (
        model.step(TOKENS[:, 0], s, p) for s, p in zip(states, (0, torch.tensor(0), 1), strict=True)
    )
    assert torch.equal(number, tensor)
    assert not torch.allclose(number, shifted)


def test_a_prediction_sees_the_tokens_before_it_alone() -> None:
    model = _build(SMALL)
    moved = TOKENS.clone()
    moved[:, 6] = (moved[:, 6] + 1) % 32
    changed = (model(moved, _context(model)) - model(TOKENS, _context(model))).abs().amax((0, 2)) > 1e-6
    assert changed.nonzero().flatten().tolist() == list(range(7, 16))


def test_zero_initialised_layers_are_identities() -> None:
    for adaln in ("single", "group", "per_layer"):
        model = AiM(replace(SMALL, adaln=adaln, adaln_init="zero"))
        moved = TOKENS.roll(1, 0)
        moved[:, 6] = TOKENS[:, 6]  # logits of token 7 depend on token 6 alone as long as no layer mixes
        assert torch.equal(model(moved, _context(model))[:, 7], model(TOKENS, _context(model))[:, 7])
    random = AiM(SMALL)
    assert not torch.equal(random(moved, _context(random))[:, 7], random(TOKENS, _context(random))[:, 7])


def test_padding_of_a_caption_leaves_no_trace() -> None:
    """Wherever the padding stands, and in a model without room for it, the logits are the same."""
    model, narrow = _build(TEXT), _build(replace(TEXT, text_tokens=3))
    state = {k: v for k, v in model.state_dict().items() if k != "condition.null"}
    narrow.load_state_dict(state, strict=False)
    features, mask, _ = _captions([3, 3])
    expected = narrow(TOKENS, narrow.embed_condition(_captions([3, 3], tokens=3), KEEP))
    for shift in (0, 1, 2):
        text = TextFeatures(features.roll(shift, 1), mask.roll(shift, 1))
        found = model(TOKENS, model.embed_condition(text, KEEP))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_mean_of_a_caption_stands_in_for_it() -> None:
    model = _build(replace(TEXT, caption_prefix="mean"))
    features, mask, _ = _captions([2, 5])
    context = model.embed_condition(TextFeatures(features, mask), KEEP)
    assert context.embedding.shape == (2, 1, 32)
    torch.testing.assert_close(context.embedding[0, 0], model.condition.project(features[0, :2]).mean(0))
    torch.testing.assert_close(_decode(model, context), model(TOKENS, context), rtol=1e-5, atol=1e-5)


def test_a_dropped_caption_is_the_learned_null() -> None:
    model = _build(TEXT)
    logits = model(TOKENS[:1].expand(2, -1), model.embed_condition(_captions([2, 5]), ~KEEP))
    torch.testing.assert_close(logits[0], logits[1])  # products need not sum every row in the same order
    logits.sum().backward()
    assert model.condition.null.grad.abs().sum() > 0


def test_label_dropout_is_the_callers_alone() -> None:
    """In eval mode nothing is random: conditions are dropped where the caller says so."""
    model = _build(replace(SMALL, dropout=0.5))
    assert torch.equal(model(TOKENS, _context(model)), model(TOKENS, _context(model)))
    assert not torch.equal(model.train()(TOKENS, _context(model)), model(TOKENS, _context(model)))


CHANGES = [
    *({"adaln": kind} for kind in ("none", "single", "per_layer")),
    {"adaln_groups": 3},
    {"adaln_layout": "contiguous"},
    {"final_adaln": False},
    {"position_embedding": False},
    {"tied_head": False},
    {"condition": "text", "text_tokens": 5, "text_width": 8},
    *({"mamba2": replace(MIXER, **change)} for change in ({"d_state": 4}, {"d_conv": 3}, {"expand": 1})),
    {"mamba2": replace(MIXER, head_width=32)},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_switch_changes_the_model(change: dict) -> None:
    base, changed = _build(SMALL), _build(replace(SMALL, **change))
    state, other = base.state_dict(), changed.state_dict()
    if state.keys() == other.keys() and all(state[k].shape == other[k].shape for k in state):
        changed.load_state_dict(state)
        assert not torch.allclose(base(TOKENS, _context(base)), changed(TOKENS, _context(changed)))


def test_gradient_checkpointing_changes_nothing() -> None:
    model = _build(SMALL).train()
    checkpointed = _build(replace(SMALL, gradient_checkpointing=True)).train()
    for m in (model, checkpointed):
        m(TOKENS, _context(m)).square().mean().backward()
    for ours, theirs in zip(model.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adaln_groups": 4}, "1 .. 3, the number of layers"),
        ({"width": 20}, "does not divide the inner width 20 x 2"),
        ({"depth": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_architecture_is_one_sentence(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)


def test_bad_mixer_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="mamba2.d_conv=1 must be at least 2"):
        Mamba2Config(d_conv=1)
