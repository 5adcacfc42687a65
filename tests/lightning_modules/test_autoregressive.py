"""Autoregressive training and sampling, with every generator that is made for it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.config import load_config
from experiments.errors import UserError
from lightning_modules.autoregressive import AutoregressiveModule
from lightning_modules.conditions import Condition, TextFeatures
from lightning_modules.config import AutoregressiveConfig, OptimConfig
from lightning_modules.generators.config import GENERATORS
from lightning_modules.layers.config import Mamba2Config
from lightning_modules.samplers.autoregressive import AutoregressiveSampler, guidance_scales
from lightning_modules.samplers.config import SAMPLERS, AutoregressiveSamplerConfig
from lightning_modules.samplers.draw import draw_tokens
from lightning_modules.samplers.noise import Noise

NAMES = [n for n in GENERATORS.names() if GENERATORS[n].config.objective == "autoregressive"]
SIZES = {
    "aim": {"adaln_groups": 2, "mamba2": Mamba2Config(d_state=8, head_width=16)},
    "llamagen": {"heads": 2, "mlp_multiple": 8, "dropout": 0.0},
}
LENGTH, CLASSES = 16, 3
PLAIN = AutoregressiveSamplerConfig(guidance=1.0)


def _build(name: str, condition: str = "class") -> nn.Module:
    sizes = SIZES[name] | {"vocab_size": 32, "grid_size": 4, "num_classes": CLASSES, "width": 32, "depth": 2}
    sizes |= {"condition": condition, "text_tokens": 5, "text_width": 8}
    config = GENERATORS[name].config(**sizes)
    torch.manual_seed(0)
    model = GENERATORS.build(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # decided logits, and no output that starts at zero: settings must show in the draws
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.3
    return model


@pytest.fixture(
    scope="module", params=[(name, condition) for name in NAMES for condition in ("class", "text")], ids=str
)
def generator(request: pytest.FixtureRequest) -> nn.Module:
    return _build(*request.param)


def _condition(generator: nn.Module, indices: Tensor) -> Condition:
    """Labels, or captions of two to five tokens; sample i has the same in every batch."""
    if generator.config.condition == "class":
        return indices % CLASSES
    features = torch.randn(32, 5, 8, generator=torch.Generator().manual_seed(1))[indices]
    mask = torch.arange(5) < 2 + indices[:, None] % 4
    return TextFeatures(features * mask[..., None], mask)


def _sample(generator: nn.Module, config: AutoregressiveSamplerConfig, indices=range(6), seed: int = 0) -> Tensor:
    indices = torch.tensor(list(indices))
    return SAMPLERS.build(config)(generator, _condition(generator, indices), Noise(seed, indices))


def _logits(generator: nn.Module, tokens: Tensor, drop: bool) -> Tensor:
    """Of all samples from the first on, by one pass over whole sequences."""
    condition = _condition(generator, torch.arange(len(tokens)))
    with torch.no_grad():
        return generator(tokens, generator.embed_condition(condition, torch.full((len(tokens),), drop))).float()


# --- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_every_token_is_drawn_from_two_separate_full_passes(generator: nn.Module, guidance: float) -> None:
    """Stepwise, with doubled batches, is the same as whole sequences, one after the other."""
    config = AutoregressiveSamplerConfig(guidance=guidance, temperature=0.9, top_k=20, top_p=0.95)
    tokens = _sample(generator, config)
    conditional, unconditional = (_logits(generator, tokens, drop) for drop in (False, True))
    logits = (1 - guidance) * unconditional + guidance * conditional
    uniform = Noise(0, torch.arange(6)).uniform(LENGTH)
    expected, _ = draw_tokens(logits, uniform, config.temperature, config.top_k, config.top_p)
    assert torch.equal(tokens, expected)
    assert tokens.unique().numel() > 8


def test_image_i_does_not_depend_on_its_batch(generator: nn.Module) -> None:
    config = AutoregressiveSamplerConfig()
    whole = _sample(generator, config, range(6))
    parts = torch.cat([_sample(generator, config, part) for part in ([0], [1, 2, 3], [4, 5])])
    assert torch.equal(whole, parts)
    assert torch.equal(whole[[3, 5]], _sample(generator, config, [3, 5]))
    assert not torch.equal(whole, _sample(generator, config, range(6), seed=1))


def test_one_sampler_serves_batches_of_several_sizes(generator: nn.Module) -> None:
    sampler, config = AutoregressiveSampler(PLAIN), PLAIN
    for part in ([0, 1, 2], [3, 4, 5], [6], [7, 8, 9]):
        indices = torch.tensor(part)
        tokens = sampler(generator, _condition(generator, indices), Noise(0, indices))
        assert torch.equal(tokens, _sample(generator, config, part))


@pytest.mark.parametrize(
    "change",
    [
        {"guidance": 6.0},
        {"guidance_schedule": "linear"},
        {"guidance_schedule": "cosine"},
        {"guidance_interval": [0.0, 0.5]},
        {"guidance_interval": [0.5, 1.0]},
        {"temperature": 0.3},
        {"temperature": 0.0},
        {"top_k": 2},
        {"top_p": 0.3},
        {"position_shift": "official"},
    ],
    ids=str,
)
def test_every_setting_changes_the_samples(generator: nn.Module, change: dict) -> None:
    base = AutoregressiveSamplerConfig(guidance=2.0)
    assert not torch.equal(_sample(generator, base, range(24)), _sample(generator, replace(base, **change), range(24)))


@pytest.mark.parametrize(
    ("preset", "overrides", "words"),
    [
        ("aim/llamagen-demo", {}, "generator.name=llamagen"),
        ("aim/demo", {"generator.position_embedding": False}, "generator.position_embedding=false"),
    ],
)
def test_a_shift_of_positions_needs_their_table(preset: str, overrides: dict[str, Any], words: str) -> None:
    load_config(preset, overrides)
    with pytest.raises(UserError, match=f"position_shift=official .* none with {words}") as caught:
        load_config(preset, overrides | {"sampler.position_shift": "official"})
    assert "\n" not in str(caught.value)
    assert load_config("aim/demo", {"sampler.position_shift": "official"}).sampler.position_shift == "official"


def test_official_position_shift_feeds_token_k_at_row_k_plus_one() -> None:
    model = _build("aim")
    with torch.no_grad():  # a table whose row k is that of k - 1 makes the shifted model the plain one
        shifted = _build("aim")
        shifted.position_embedding.weight[1:] = model.position_embedding.weight[:-1]
    official = replace(PLAIN, position_shift="official")
    assert torch.equal(_sample(shifted, official), _sample(model, PLAIN))
    assert not torch.equal(_sample(model, official), _sample(model, PLAIN))


def test_guidance_by_position() -> None:
    def scales(**settings: Any) -> list[float]:
        return guidance_scales(AutoregressiveSamplerConfig(guidance=3.0, **settings), 5)

    assert scales() == [3, 3, 3, 3, 3]
    assert scales(guidance_schedule="linear") == [1, 1.5, 2, 2.5, 3]
    assert scales(guidance_interval=[0.25, 0.5]) == [1, 3, 3, 1, 1]
    assert scales(guidance_interval=[0.5, 1.0], guidance_schedule="linear") == [1, 1, 2, 2.5, 3]


def test_known_tokens_are_refused(generator: nn.Module) -> None:
    known = torch.zeros(1, LENGTH, dtype=torch.long)
    with pytest.raises(ValueError, match="objective.name=masked"):
        SAMPLERS.build(PLAIN)(generator, _condition(generator, torch.arange(1)), Noise(0, torch.arange(1)), known)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"guidance_interval": [0.0, 1.5]}, "guidance_interval"),
        ({"guidance_interval": [0.6, 0.4]}, "first <= second"),
        ({"guidance_interval": [0.5]}, "guidance_interval"),
        ({"guidance": -1.0}, "guidance=-1.0 must be at least 0"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_bad_settings_are_one_sentence(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AutoregressiveSamplerConfig(**change)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_a_replayed_graph_draws_the_same_tokens(name: str) -> None:
    model = _build(name).cuda()
    sampler = SAMPLERS.build(AutoregressiveSamplerConfig(guidance=2.0, top_k=20))
    eager = SAMPLERS.build(AutoregressiveSamplerConfig(guidance=2.0, top_k=20, cuda_graph=False))
    for start in (0, 6, 12):
        indices = torch.arange(start, start + 6, device="cuda")
        tokens = sampler(model, indices % CLASSES, Noise(0, indices))
        assert torch.equal(tokens, eager(model, indices % CLASSES, Noise(0, indices)))


# --- training ---------------------------------------------------------------------------------------------------------


def _module(model: nn.Module, **settings: Any) -> tuple[AutoregressiveModule, dict[str, Tensor]]:
    objective = AutoregressiveConfig(**settings)
    module = AutoregressiveModule(objective, model, OptimConfig(), max_steps=2, ema_decay=0.0, seed=0)
    logged: dict[str, Tensor] = {}
    module.log_dict = lambda values, **_: logged.update(values)
    module.all_gather = lambda x: x
    return module, logged


def _batch(generator: nn.Module, count: int = 8) -> dict[str, Any]:
    tokens = torch.randint(0, 32, (count, LENGTH), generator=torch.Generator().manual_seed(3))
    condition = _condition(generator, torch.arange(count))
    return {"tokens": tokens, "label" if generator.config.condition == "class" else "text": condition}


def test_loss_is_the_cross_entropy_of_every_token(generator: nn.Module) -> None:
    batch = _batch(generator)
    module, logged = _module(generator, condition_dropout=0.0)
    loss = module.training_step(batch, 0)
    logits = _logits(generator, batch["tokens"], False)
    expected = -logits.log_softmax(-1).gather(-1, batch["tokens"][..., None]).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logged["train/loss_over_ln_v"], expected / math.log(32))
    accuracy = (logits.argmax(-1) == batch["tokens"]).float().mean()
    assert logged["train/accuracy"] == accuracy
    module.on_validation_epoch_start()
    with torch.no_grad():
        module.validation_step(batch, 0)
    module.on_validation_epoch_end()
    torch.testing.assert_close(logged["val/accuracy"], accuracy)
    smoothed, _ = _module(generator, condition_dropout=0.0, label_smoothing=0.2)
    expected = F.cross_entropy(logits.flatten(0, 1), batch["tokens"].flatten(), label_smoothing=0.2)
    torch.testing.assert_close(smoothed.training_step(batch, 0), expected)


def test_conditions_are_dropped_in_training_and_kept_in_validation(generator: nn.Module) -> None:
    batch = _batch(generator, 32)
    losses = []
    for share in (0.0, 0.5):
        module, _ = _module(generator, condition_dropout=share)
        torch.manual_seed(0)
        losses.append(module.training_step(batch, 0).item())
    assert losses[0] != losses[1]
    results = {}
    for dropout in (0.0, 0.5):
        module, logged = _module(generator, condition_dropout=0.5, validation_dropout=dropout)
        for _ in range(2):  # the same at every step
            module.on_validation_epoch_start()
            with torch.no_grad():
                module.validation_step(batch, 0)
            module.on_validation_epoch_end()
            results.setdefault(dropout, set()).add(float(logged["val/loss"]))
        assert float(logged["val/bits_per_token"]) == pytest.approx(float(logged["val/loss"]) / math.log(2))
    assert [len(values) for values in results.values()] == [1, 1]
    assert results[0.0].pop() == pytest.approx(losses[0], rel=1e-5)
    assert results[0.5].pop() != pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("key", ["label_smoothing", "condition_dropout", "validation_dropout"])
def test_bad_shares_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        AutoregressiveConfig(**{key: 1.0})
