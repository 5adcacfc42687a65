"""M-Mamba: published sizes, what sees what, and that every switch of its layer does something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.normalization import AdaLayerNormContinuous

from experiments.conditions import evaluation_conditions
from experiments.config import load_config
from lightning_modules.conditions import TextFeatures
from lightning_modules.generators.configs.mmamba import MMambaConfig
from lightning_modules.generators.mmamba import MMamba
from lightning_modules.layers.config import CrossScanConfig
from lightning_modules.layers.cross_scan import CrossScan
from lightning_modules.layers.cross_scan_layer import AdaptiveNorm

WORDS, SIDE, WIDTH = 3, 3, 8
TINY = MMambaConfig(
    vocab_size=40,
    grid_size=4,
    text_tokens=5,
    text_width=12,
    pooled_width=8,
    width=16,
    depth=2,
    heads=2,
    embed_width=16,
    end_width=16,
    end_blocks=1,
    end_heads=2,
    micro_width=8,
    cross_scan=CrossScanConfig(d_state=4),
)


def _scan(**change) -> MMambaConfig:
    return replace(TINY, cross_scan=replace(TINY.cross_scan, **change))


@torch.no_grad()
def _decided(model: torch.nn.Module) -> torch.nn.Module:
    """Parameters by name and shape alone, so that models of one shape agree."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(sum(name.encode()))
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model.eval()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 448_014_336),
        ({"depth": 12}, 244_371_456),
        ({"cross_scan": CrossScanConfig(share_ssm=True)}, 423_954_432),
        ({"cross_scan": CrossScanConfig(conv="causal_1d")}, 447_789_056),
    ],
    ids=["22 layers", "12 layers", "shared SSM", "conv1d"],
)
def test_published_sizes(change: dict, expected: int) -> None:
    with torch.device("meta"):
        config = MMambaConfig(vocab_size=8192, grid_size=16, text_tokens=77, text_width=768, pooled_width=768)
        model = MMamba(replace(config, **change))
    assert sum(p.numel() for p in model.layers.parameters()) == expected
    assert sum(p.numel() for p in model.amused.parameters()) == 90_192_128


def _sees(config: CrossScanConfig) -> torch.Tensor:
    """(S, S) bool: output row depends on input column; words first, then the image."""
    mixer = _decided(CrossScan(WIDTH, config, (SIDE, SIDE), WORDS))
    total = WORDS + SIDE * SIDE
    x = torch.randn(1, total, WIDTH, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pooled = torch.ones(1, WIDTH)
    y = torch.cat(mixer(x[:, :WORDS], x[:, WORDS:], pooled), dim=1)
    rows = [torch.autograd.grad(y[0, i].sum(), x, retain_graph=True)[0][0].abs().sum(-1) > 0 for i in range(total)]
    return torch.stack(rows)


@pytest.mark.parametrize("preset", ["mmamba/demo", "mmamba/uvit-demo"])
def test_captions_to_evaluate_with(preset: str, tmp_path: Path) -> None:
    """These generators have no `num_classes`; the images are balanced over the data's classes all the same."""
    config = load_config(preset, {"runtime.root": str(tmp_path), "evaluation.num_samples": 9})
    conditions = evaluation_conditions(config)
    assert len(conditions.captions) == 9 and sorted(conditions.labels.tolist()) == list(range(9))


@pytest.mark.parametrize("conv", ["none", "depthwise_2d", "causal_1d"])
@pytest.mark.parametrize("merge", ["mean", "linear"])
def test_words_in_front_never_see_the_image(conv: str, merge: str) -> None:
    sees = _sees(CrossScanConfig(conv=conv, d_state=4, text_merge=merge))
    assert not sees[:WORDS, WORDS:].any()
    assert torch.equal(sees[:WORDS, :WORDS], torch.ones(WORDS, WORDS).tril().bool())
    assert sees[WORDS:].all()


@pytest.mark.parametrize("text", ["suffix", "both_ends"])
@pytest.mark.parametrize("conv", ["none", "causal_1d"])
@pytest.mark.parametrize("directions", [2, 4])
def test_words_behind_the_image_see_and_are_seen(text: str, conv: str, directions: int) -> None:
    assert _sees(CrossScanConfig(text=text, conv=conv, directions=directions, d_state=4)).all()


def test_one_scan_looks_back_and_two_look_both_ways() -> None:
    one = _sees(CrossScanConfig(directions=1, conv="none", d_state=4))[WORDS:, WORDS:]
    assert torch.equal(one, torch.ones(SIDE**2, SIDE**2).tril().bool())
    assert _sees(CrossScanConfig(directions=2, conv="none", d_state=4))[WORDS:, WORDS:].all()


@pytest.mark.parametrize("text", ["prefix", "suffix", "both_ends"])
@pytest.mark.parametrize("merge", ["mean", "first", "linear"])
def test_shared_path_equals_four_separate_scans(text: str, merge: str) -> None:
    """The fused call against the picture of slide 11: four sequences, scanned one by one, merged."""
    torch.manual_seed(0)
    config = CrossScanConfig(d_state=4, conv="none", text=text, text_merge=merge)
    mixer = _decided(CrossScan(WIDTH, config, (SIDE, SIDE), WORDS))
    words, image = torch.randn(2, WORDS, WIDTH), torch.randn(2, SIDE**2, WIDTH)
    x, z = mixer.in_proj(torch.cat([words, image], 1)).chunk(2, -1)
    u = torch.nn.functional.silu(torch.cat([x, x[:, :WORDS]], 1) if text == "both_ends" else x)
    outputs = []
    for k in range(4):
        single = CrossScan(WIDTH, replace(config, directions=1, text="prefix"), (SIDE, SIDE), WORDS).ssm
        with torch.no_grad():
            for name, parameter in single.named_parameters():
                parameter.copy_(mixer.ssm.get_parameter(name)[k : k + 1])
        order = mixer.order[k].long()
        outputs.append(single(u[:, order])[:, order.argsort()])
    directions = torch.stack(outputs)
    merged = {
        "mean": directions.mean(0),
        "first": directions[0],
        "linear": mixer.merge_words(torch.cat(outputs, -1)) if mixer.merge_words else None,
    }[merge]
    heard = merged[:, :WORDS]
    if text == "both_ends":
        heard = (heard + merged[:, -WORDS:]) / 2
    total = torch.cat([heard, directions.sum(0)[:, WORDS : WORDS + SIDE**2]], dim=1)
    expected = mixer.out_proj(mixer.norm(total) * torch.nn.functional.silu(z))
    torch.testing.assert_close(torch.cat(mixer(words, image), dim=1), expected)


def test_an_open_gate_is_no_gate() -> None:
    """The scan is linear in its inputs: what the image reads of the words and of itself sum to the whole."""
    gated = _decided(CrossScan(WIDTH, CrossScanConfig(d_state=4, gate=True), (SIDE, SIDE), WORDS))
    plain = CrossScan(WIDTH, CrossScanConfig(d_state=4), (SIDE, SIDE), WORDS).eval()
    plain.load_state_dict({k: v for k, v in gated.state_dict().items() if not k.startswith("gate")})
    text, image, pooled = torch.randn(2, WORDS, WIDTH), torch.randn(2, SIDE**2, WIDTH), torch.randn(2, WIDTH)
    heard, half = gated(text, image, pooled)
    torch.testing.assert_close(heard, plain(text, image)[0])  # words read each other as before
    torch.nn.init.constant_(gated.gate_pooled.bias, 1e4)
    torch.testing.assert_close(gated(text, image, pooled)[1], plain(text, image)[1])
    assert not torch.allclose(half, plain(text, image)[1], atol=1e-3)
    torch.nn.init.constant_(gated.gate_pooled.bias, -1e4)
    shut = gated(text, image, pooled)[1]
    torch.testing.assert_close(shut, gated(text + 1, image, pooled)[1])


def _inputs() -> tuple[torch.Tensor, TextFeatures]:
    generator = torch.Generator().manual_seed(2)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    text = TextFeatures(torch.randn(2, 5, 12, generator=generator), mask, torch.randn(2, 8, generator=generator))
    tokens = torch.randint(0, 40, (2, 16), generator=generator)
    tokens[:, ::2] = TINY.table_rows - 1
    return tokens, text


def _logits(config: MMambaConfig, text: TextFeatures | None = None) -> torch.Tensor:
    model = _decided(MMamba(config))
    tokens, default = _inputs()
    return model(tokens, model.embed_condition(text or default, torch.tensor([False, False])))


SWITCHES = {
    "suffix": _scan(text="suffix"),
    "both_ends": _scan(text="both_ends"),
    "gate": _scan(gate=True),
    "cross_attention": replace(_scan(text="none"), cross_attention=True),
    "both": replace(TINY, cross_attention=True),
    "text in the ends alone": _scan(text="none"),
    "merge first": _scan(text_merge="first"),
    "merge linear": _scan(text_merge="linear"),
    "share_ssm": _scan(share_ssm=True),
    "conv1d": _scan(conv="causal_1d"),
    "no conv": _scan(conv="none"),
    "1 direction": _scan(directions=1),
    "2 directions": _scan(directions=2),
    "constant text": replace(TINY, text_update=False),
    "no text mlp": replace(TINY, text_mlp=False),
    "no adaln": replace(TINY, adaln=False),
    "conv ends": replace(TINY, ends="conv"),
    "mask_padding": replace(TINY, mask_padding=True),
    "resample": replace(TINY, resample=True),
    "no micro conditions": replace(TINY, micro_conditions=[]),
    "d_state": _scan(d_state=2),
    "expand": _scan(expand=1.0),
    "mlp_ratio": replace(TINY, mlp_ratio=2.0),
}


def test_every_switch_changes_the_logits() -> None:
    found = {"default": _logits(TINY)} | {name: _logits(config) for name, config in SWITCHES.items()}
    names = list(found)
    for i, left in enumerate(names):
        assert torch.isfinite(found[left]).all()
        for right in names[:i]:
            assert not torch.allclose(found[left], found[right], atol=1e-6), f"{left} and {right} are one model"


@pytest.mark.parametrize("name", SWITCHES)
def test_every_parameter_is_trained(name: str) -> None:
    model = _decided(MMamba(SWITCHES[name])).train()
    tokens, text = _inputs()
    model(tokens, model.embed_condition(text, torch.tensor([True, False]))).square().mean().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("conv", ["depthwise_2d", "causal_1d", "none"])
@pytest.mark.parametrize(
    "config",
    [TINY, _scan(text="suffix"), _scan(text="both_ends"), replace(_scan(text="none"), cross_attention=True)],
    ids=["prefix", "suffix", "both ends", "cross-attention"],
)
def test_masked_padding_changes_nothing(config: MMambaConfig, conv: str) -> None:
    """In convolutions (zero), in scans (dt = 0), in cross-attention, and in the attention of the ends."""
    config = replace(config, mask_padding=True, cross_scan=replace(config.cross_scan, conv=conv))
    text = _inputs()[1]
    noisy = text._replace(features=torch.where(text.mask[..., None], text.features, torch.tensor(7.0)))
    torch.testing.assert_close(_logits(config, text), _logits(config, noisy), rtol=1e-4, atol=1e-4)
    plain = replace(config, mask_padding=False)
    assert not torch.allclose(_logits(plain, text), _logits(plain, noisy), atol=1e-3)


def test_the_norm_is_amuseds() -> None:
    ours = _decided(AdaptiveNorm(8, torch.nn.RMSNorm(8, 1e-6)))
    theirs = AdaLayerNormContinuous(8, 8, eps=1e-6, bias=False, norm_type="rms_norm")
    theirs.load_state_dict(ours.state_dict())
    x, condition = torch.randn(2, 5, 8), torch.randn(2, 8)
    torch.testing.assert_close(ours(x, condition), theirs(x, condition))


def test_ends_start_from_published_weights(tmp_path: Path) -> None:
    source = _decided(MMamba(replace(TINY, depth=1)))
    source.amused.save_pretrained(tmp_path / "transformer")
    model = MMamba(replace(TINY, pretrained_ends=str(tmp_path)))
    before = {key: value.clone() for key, value in model.layers.state_dict().items()}
    model.start_from_published()
    for key, value in model.amused.state_dict().items():
        assert torch.equal(value, source.amused.state_dict()[key])
    assert all(torch.equal(value, before[key]) for key, value in model.layers.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": "suffix", "gate": True}, "text=prefix"),
        ({"text": "suffix", "directions": 1}, "no word"),
        ({"d_state": 0}, "at least 1"),
        ({"expand": 0.0}, "positive"),
    ],
)
def test_bad_mixer_is_one_sentence(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(TINY.cross_scan, **change)


@pytest.mark.parametrize("ratio", [0.0, -1.0])
def test_an_mlp_without_channels_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"generator.mlp_ratio={ratio} must be at least 0.0625"):
        replace(TINY, mlp_ratio=ratio)


def test_a_generator_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match="without its words"):
        replace(_scan(text="none"), ends="conv")
