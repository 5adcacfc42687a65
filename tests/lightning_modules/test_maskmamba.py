"""MaskMamba: parameter counts, schemes, condition, and that every architecture switch changes the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.conditions import TextFeatures
from lightning_modules.generators.config import GENERATORS
from lightning_modules.generators.configs.maskmamba import MaskMambaConfig
from lightning_modules.generators.maskmamba import MaskMamba
from lightning_modules.layers.bi_mamba import BiMamba
from lightning_modules.layers.bi_mamba_v2 import BiMambaV2
from lightning_modules.layers.config import MIXERS, BiMambaConfig, BiMambaV2Config
from lightning_modules.layers.hybrid import build_layers, matched_depth
from lightning_modules.registry import Entry

SMALL = MaskMambaConfig(vocab_size=32, grid_size=4, num_classes=3, width=32, depth=4, heads=4, dropout=0.0)
IMAGENET = {"vocab_size": 16384, "grid_size": 16, "num_classes": 1000}


def _build(config: MaskMambaConfig, seed: int = 0) -> MaskMamba:
    torch.manual_seed(seed)
    return GENERATORS.build(config).eval()


def _logits(model: MaskMamba, tokens: torch.Tensor | None = None) -> torch.Tensor:
    tokens = torch.arange(32).reshape(2, 16) % 32 if tokens is None else tokens
    labels = torch.arange(len(tokens)) % 3
    return model(tokens, model.embed_condition(labels, torch.zeros(len(tokens), dtype=torch.bool)))


def _parameters(config: MaskMambaConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in MaskMamba(config).parameters())


# Exact counts, and beside them the millions that were fitted to the paper's 103M .. 741M: `eq1` is Eq. 1 read
# literally, `paper_fit` has branches of width 2C and no MLPs, `gpt_shapes` branches of width C.
EQ1 = BiMambaV2Config()
FIT = BiMambaV2Config(branch_ratio=2.0)
GPT = BiMambaV2Config(branch_ratio=1.0)


@pytest.mark.parametrize(
    ("depth", "width", "heads", "mamba", "mlp", "millions"),
    [
        (20, 640, 10, EQ1, 4.0, 102.4),
        (36, 896, 14, EQ1, 4.0, 336.8),
        (44, 1216, 19, EQ1, 4.0, 743.2),
        (24, 768, 12, FIT, 0.0, 104.09),
        (48, 1024, 16, FIT, 0.0, 338.15),
        (48, 1536, 24, FIT, 0.0, 743.15),
        (12, 768, 12, GPT, 4.0, 99.97),
        (24, 1024, 16, GPT, 4.0, 324.80),
        (36, 1280, 20, GPT, 4.0, 740.74),
    ],
)
def test_parameter_counts(depth, width, heads, mamba, mlp, millions) -> None:
    config = MaskMambaConfig(
        **IMAGENET,
        depth=depth,
        width=width,
        heads=heads,
        bi_mamba_v2=mamba,
        mamba_mlp_ratio=mlp,
        attention_mlp_ratio=mlp,
    )
    # The published fits leave out the bias of the 16,384 logits; everything else is counted.
    count = _parameters(config) - config.vocab_size
    digits = 1 if millions in (102.4, 336.8, 743.2) else 2
    assert round(count / 1e6, digits) == pytest.approx(millions, abs=0.011 if digits == 2 else 0.051)


@pytest.mark.parametrize(
    ("depth", "width", "heads", "millions"), [(12, 768, 12, 98.61), (24, 1024, 16, 320.38), (36, 1280, 20, 730.97)]
)
def test_transformer_counts(depth, width, heads, millions) -> None:
    config = MaskMambaConfig(
        **IMAGENET, depth=depth, width=width, heads=heads, mixer="attention", hybrid_scheme="uniform"
    )
    assert (_parameters(config) - config.vocab_size) / 1e6 == pytest.approx(millions, abs=0.011)


CHANGES = {
    "hybrid_scheme": [{"hybrid_scheme": s} for s in ("uniform", "serial_v1", "group_v1", "group_v2")],
    "mixer": [{"mixer": "bi_mamba"}, {"mixer": "attention", "hybrid_scheme": "uniform"}],
    "condition_position": [{"condition_position": p} for p in ("head", "tail")],
    "position_tables": [{"position_tables": "shared", "condition_position": "head"}],
    "conv": [{"bi_mamba_v2": BiMambaV2Config(conv=c)} for c in ("causal", "none")],
    "merge": [{"bi_mamba_v2": BiMambaV2Config(merge="multiply")}],
    "branch_ratio": [{"bi_mamba_v2": BiMambaV2Config(branch_ratio=1.0)}],
    "z_conv": [{"bi_mamba_v2": BiMambaV2Config(z_conv=False)}],
    "share_ssm": [{"bi_mamba_v2": BiMambaV2Config(share_ssm=True)}],
    "divide_out": [{"bi_mamba_v2": BiMambaV2Config(divide_out=True)}],
    "d_state": [{"bi_mamba_v2": BiMambaV2Config(d_state=4)}],
    "d_conv": [{"bi_mamba_v2": BiMambaV2Config(d_conv=5)}],
    "mlp": [{"mamba_mlp_ratio": 0.0}, {"attention_mlp_ratio": 2.0}],
    "embedding_norm": [{"embedding_norm": False}],
    "tied_head": [{"tied_head": False}],
}


@pytest.mark.parametrize("change", [c for group in CHANGES.values() for c in group], ids=str)
def test_every_switch_changes_the_model(change: dict) -> None:
    base, changed = _build(SMALL), _build(replace(SMALL, **change))
    state, other = base.state_dict(), changed.state_dict()
    same_parameters = state.keys() == other.keys() and all(state[k].shape == other[k].shape for k in state)
    if same_parameters:  # equal weights, so only the switch can make a difference
        changed.load_state_dict(state)
        assert not torch.allclose(_logits(base), _logits(changed))


def test_vim_switches_change_the_mixer() -> None:
    base = replace(SMALL, mixer="bi_mamba", hybrid_scheme="uniform")
    sharing = replace(base, bi_mamba=BiMambaConfig(weight_sharing="v1"))
    assert _parameters(base) > _parameters(sharing)
    halved, summed = _build(base), _build(replace(base, bi_mamba=BiMambaConfig(divide_out=False)))
    summed.load_state_dict(halved.state_dict())
    assert not torch.allclose(_logits(halved), _logits(summed))


@pytest.mark.parametrize("scheme", ["uniform", "serial_v1", "serial_v2", "group_v1", "group_v2"])
def test_every_position_sees_every_other(scheme: str) -> None:
    model = _build(replace(SMALL, hybrid_scheme=scheme))
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    base = _logits(model, tokens)
    for position in (0, 15):
        moved = tokens.clone()
        moved[0, position] = 5
        difference = (_logits(model, moved) - base).abs().amax(-1)[0]
        assert (difference > 1e-7).all()


@pytest.mark.parametrize(
    ("scan", "seen"), [("forward", range(8, 16)), ("reverse", range(0, 9)), ("bidirectional", range(16))]
)
def test_one_direction_scans_one_way(scan: str, seen: range) -> None:
    torch.manual_seed(0)
    mixer = BiMambaV2(16, BiMambaV2Config(conv="none"), scan)
    x = torch.randn(1, 16, 16)
    moved = x.clone()
    moved[:, 8] += 1
    changed = (mixer(moved) - mixer(x)).abs().amax(-1)[0] > 1e-7
    assert changed.nonzero().flatten().tolist() == list(seen)


@pytest.mark.parametrize(("scan", "factor"), [("forward", 1.0), ("reverse", 1.0), ("bidirectional", 0.5)])
@pytest.mark.parametrize(
    ("mixer", "config"), [(BiMamba, BiMambaConfig()), (BiMambaV2, BiMambaV2Config(merge="multiply"))]
)
def test_only_the_sum_of_two_directions_is_halved(mixer: Any, config: Any, scan: str, factor: float) -> None:
    torch.manual_seed(0)
    halved, plain = (mixer(16, replace(config, divide_out=divides), scan) for divides in (True, False))
    plain.load_state_dict(halved.state_dict())
    x = torch.randn(1, 16, 16)
    torch.testing.assert_close(halved(x), factor * plain(x))


def test_moving_the_condition_moves_no_image_position() -> None:
    """With separate tables and no mixing at all, logits of image tokens cannot depend on where the condition stands."""
    models = [_build(replace(SMALL, condition_position=p)) for p in ("head", "middle", "tail")]
    state = models[0].state_dict()
    for model in models:
        model.load_state_dict(state)
        model.layers = torch.nn.ModuleList()
    outputs = [_logits(model) for model in models]
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[1], outputs[2])


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_products_of_the_normed_image_with_the_codes(tied: bool) -> None:
    model, given = _build(replace(SMALL, tied_head=tied)), []
    with torch.no_grad():
        for parameter in (model.head_bias, model.norm.weight, model.norm.bias):
            parameter.normal_()
    model.layers[-1].register_forward_hook(lambda module, inputs, output: given.append(output))
    logits = _logits(model)
    image = torch.cat([given[0][:, :8], given[0][:, 9:]], dim=1)  # the condition stands in the middle
    table = model.token_embedding.weight[:32] if tied else model.head.weight
    expected = nn.functional.layer_norm(image, (32,), model.norm.weight, model.norm.bias, 1e-6) @ table.T
    torch.testing.assert_close(logits, expected + model.head_bias)


def test_dropped_condition_is_the_null_class() -> None:
    model = _build(SMALL)
    labels, none = torch.tensor([0, 2]), torch.tensor([True, True])
    context = model.embed_condition(labels, none)
    assert torch.equal(context.embedding[0], context.embedding[1])
    assert torch.equal(context.embedding[0, 0], model.condition.table.weight[-1])


def test_text_condition_masks_padding_and_learns_its_null() -> None:
    config = replace(SMALL, condition="text", text_tokens=5, text_width=8)
    model = _build(config)
    features = torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    drop = torch.tensor([False, True])
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    base = model(tokens, model.embed_condition(TextFeatures(features, mask), drop))
    noisy = features.clone()
    noisy[0, 3:] = 9.0  # padding
    noisy[1] = 9.0  # a dropped caption
    assert torch.equal(base, model(tokens, model.embed_condition(TextFeatures(noisy, mask), drop)))
    first, second = (model.condition.project[i].weight for i in (0, 2))
    projected = nn.functional.gelu(features[0, 0] @ first.T, approximate="tanh") @ second.T  # LlamaGen's
    torch.testing.assert_close(model.embed_condition(TextFeatures(features, mask), drop).embedding[0, 0], projected)
    base[1].sum().backward()
    assert model.condition.null.grad.abs().sum() > 0


@pytest.mark.parametrize("mixer", ["bi_mamba_v2", "bi_mamba", "attention"])
@pytest.mark.parametrize("scheme", ["serial_v2", "group_v2"])
def test_masked_padding_changes_nothing(mixer: str, scheme: str) -> None:
    """However it is embedded; without the switch, mixers read the embedding of its position."""
    config = replace(SMALL, condition="text", text_tokens=5, text_width=8, mixer=mixer, hybrid_scheme=scheme)
    text = TextFeatures(torch.randn(1, 5, 8), torch.tensor([[1, 1, 0, 0, 0]], dtype=torch.bool))
    tokens, drop = torch.arange(16)[None], torch.zeros(1, dtype=torch.bool)
    for masked in (True, False):
        model = _build(replace(config, mask_padding=masked))
        before = model(tokens, model.embed_condition(text, drop))
        with torch.no_grad():
            model.position_condition[2:] += torch.randn(3, SMALL.width)
        after = model(tokens, model.embed_condition(text, drop))
        assert torch.equal(before, after) == (masked or mixer == "attention")


@pytest.mark.parametrize("scheme", ["group_v1", "group_v2"])
def test_group_schemes_can_match_parameters(scheme: str) -> None:
    series = _parameters(replace(SMALL, width=64, depth=12))
    equal_width = replace(SMALL, width=64, depth=12, hybrid_scheme=scheme)
    matched = replace(equal_width, group_match="parameters")
    assert _parameters(equal_width) < 0.7 * series
    assert abs(_parameters(matched) / series - 1) < 0.06
    assert len(_build(matched).layers) == matched_depth(matched) > 12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 30}, "multiple of generator.heads"),
        ({"hybrid_scheme": "group_v2", "width": 24, "heads": 4, "depth": 4}, "4 groups"),
        ({"depth": 3}, "even"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_architecture_is_one_sentence(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)


def test_even_kernel_is_refused_where_it_would_be_lopsided() -> None:
    with pytest.raises(ValueError, match="odd kernel"):
        BiMambaV2Config(d_conv=4)
    assert BiMambaV2Config(d_conv=4, conv="causal").d_conv == 4


def test_gradient_checkpointing_changes_nothing() -> None:
    model = _build(SMALL).train()
    checkpointed = _build(replace(SMALL, gradient_checkpointing=True)).train()
    checkpointed.load_state_dict(model.state_dict())
    for m in (model, checkpointed):
        _logits(m).square().mean().backward()
    for ours, theirs in zip(model.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_mixer_is_called_by_its_name_and_finds_its_settings() -> None:
    for name in MIXERS.names():
        assert isinstance(getattr(SMALL, name), MIXERS[name].config)
        layers = build_layers(replace(SMALL, mixer=name, hybrid_scheme="group_v2"))
        assert isinstance(layers[0].branches[1].mixer, MIXERS.target(name))
    with pytest.raises(ValueError, match="Unknown mixer 'mambo'. Did you mean 'bi_mamba'?"):
        build_layers(replace(SMALL, mixer="mambo"))


@pytest.mark.parametrize("scheme", ["serial_v1", "serial_v2", "group_v2"])
def test_attention_as_the_mixer_makes_a_transformer_in_every_scheme(scheme: str) -> None:
    names = [name for name, _ in build_layers(replace(SMALL, mixer="attention", hybrid_scheme=scheme)).named_modules()]
    assert not [name for name in names if "ssm" in name or "conv" in name]


def test_a_scheme_without_layers_is_one_sentence() -> None:
    config = replace(SMALL)
    config.hybrid_scheme = "serial_v9"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"hybrid_scheme=serial_v9 has no layers.*layers/hybrid\.py"):
        build_layers(config)


class Shrinking(nn.Module):
    """A mixer that forgets all positions but the first: broadcasting would hide it."""

    def __init__(self, width: int, settings: object, scan: str):
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("lightning_modules.layers.absent:X", r"mixer 'bi_mamba' is registered as .*; there is no .*layers/absent\.py"),
        (
            "lightning_modules.layers.bi_mamba:BiMambo",
            "registered as BiMambo, but lightning_modules.layers.bi_mamba has",
        ),
        (f"{__name__}:Shrinking", r"The mixer Shrinking made \(2, 1, 32\) of \(2, 17, 32\)"),
    ],
)
def test_slips_of_a_mixer_are_one_sentence(target: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS.entries, "bi_mamba", Entry(BiMambaConfig, target))
    with pytest.raises(ValueError, match=said):
        _logits(_build(replace(SMALL, mixer="bi_mamba")))


def test_a_package_that_is_missing_keeps_its_own_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(MIXERS.entries, "bi_mamba", Entry(BiMambaConfig, "needs_more:Mixer"))
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        MIXERS.target("bi_mamba")
