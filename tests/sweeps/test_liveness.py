"""Axis liveness: every value of every axis of every named sweep changes the network, the loss, the samples or the data.

An option that is read but does nothing is the commonest fault of ablation code, and no table would show it.
"""

from __future__ import annotations

import hashlib
from operator import attrgetter
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.config import DATASETS
from experiments.config import load_config
from experiments.errors import UserError
from experiments.identity import benchmark_id, semantic
from experiments.model_facts import build_facts
from experiments.run_config import RunConfig
from experiments.unread import READ_BESIDE
from lightning_modules.conditions import TextFeatures, condition_of
from lightning_modules.config import OBJECTIVES
from lightning_modules.generators.config import GENERATORS
from lightning_modules.samplers.config import SAMPLERS
from lightning_modules.samplers.noise import Noise
from sweeps.axes import labels_of
from sweeps.definition import Axis, Choice, Sweep, label_of, load_sweep, sweep_names
from sweeps.equal_compute import equal_steps, followed

TINY = {"width": 32, "heads": 2, "depth": 4, "dropout": 0.0}
BATCH = 12
LARGEST = 160
"""Width above which a size is compared by its parameters' shapes alone."""
DATA: dict[str, bytes] = {}


def _axes() -> list[Any]:
    return [pytest.param(n, a.name, id=f"{n}-{a.name}") for n in sweep_names() for a in load_sweep(n).axes]


def _choices(sweep: Sweep, axis: Axis) -> list[Choice]:
    """The values that the smallest scale takes, which fit its model; all of them where it takes but one."""
    wanted = sweep.config.scales[sweep.scale("")].only.get(axis.name, axis.labels)
    kept = [choice for choice in axis.choices if choice.label in {label_of(value) for value in wanted}]
    return kept if len(kept) > 1 else list(axis.choices)


def _config(sweep: Sweep, axis: Axis, choice: Choice) -> RunConfig:
    """The sweep's first cell with one value of one axis, as small as the axis allows."""
    scale, chosen = sweep.scale(""), next(sweep.combinations({**axis.when, **choice.when, axis.name: (choice.label,)}))
    config = _tiny(sweep, scale, chosen)
    if other := followed(sweep, scale, chosen):
        config.trainer.max_steps = equal_steps(config, _tiny(sweep, scale, other), build_facts)
    return config


def _tiny(sweep: Sweep, scale: str, choices: dict[str, Choice]) -> RunConfig:
    preset, base = sweep.base(scale, labels_of(choices))
    cell = {key: value for choice in choices.values() for key, value in choice.overrides.items()}
    generator = load_config(preset, {**base, **cell}).generator
    tiny = {f"generator.{key}": value for key, value in TINY.items() if hasattr(generator, key)}
    return load_config(preset, {**base, **tiny, **cell})


@torch.no_grad()
def _fingerprint(config: RunConfig) -> str:
    """Of parameters, training loss, samples and training data; of a benchmark, what it measures."""
    if config.benchmark.name != "none":
        return benchmark_id(config)
    torch.manual_seed(0)  # of buffers that start at random, such as Dimba's null caption
    model = GENERATORS.build(config.generator)
    digest = hashlib.sha256(_data(config))
    for name, parameter in model.named_parameters():  # a parameter's value depends on its name and shape alone
        generator = torch.Generator().manual_seed(sum(name.encode()))
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
    module = OBJECTIVES.target(config.objective.name)(
        config.objective, model, config.optim, max_steps=2, ema_decay=0.0, seed=0
    )
    module.log_dict = lambda *args, **kwargs: None
    batch = random_batch(config)
    for seed in range(2):  # of two distributions one draw may be the same
        torch.manual_seed(seed)
        digest.update(module.training_step(batch, 0).numpy().tobytes())
    sampler = SAMPLERS.build(config.sampler)
    digest.update(sampler(model.eval(), condition_of(batch), Noise(0, torch.arange(BATCH))).numpy().tobytes())
    # How training goes on from there (steps, learning rate, start) and what is measured are tested by themselves.
    digest.update(repr(sorted(semantic(config, ("optim", "trainer", "evaluation")).items())).encode())
    return digest.hexdigest()


def random_batch(config: RunConfig) -> dict[str, Any]:
    """Random tokens or latents under the condition that the generator takes."""
    c, generator = config.generator, torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    if config.tokenizer.vocab_size:
        codes = torch.randint(0, c.vocab_size, (BATCH, c.grid_size**2), generator=generator)
        batch: dict[str, Any] = {"tokens": codes}
    else:
        batch = {"latents": normal(BATCH, c.latent_channels, c.grid_size, c.grid_size)}
    if c.condition == "class":
        return batch | {"label": torch.arange(BATCH) % c.num_classes}
    text = config.text_encoder
    mask = torch.arange(text.text_tokens) < 2 + torch.arange(BATCH)[:, None] % (text.text_tokens - 1)
    pooled = normal(BATCH, text.pooled_width) if text.pooled_width else None
    return batch | {"text": TextFeatures(normal(BATCH, text.text_tokens, text.text_width), mask, pooled)}


def _data(config: RunConfig) -> bytes:
    """The first training batch of the embedded data; of data that are not here, what identifies them."""
    settings = repr(sorted(semantic(config, ("data",)).items()))
    if config.data.name != "emoji":
        return settings.encode()
    if settings not in DATA:
        module = DATASETS.target("emoji")(config.data, batch_size=64)
        module.setup()
        batch = next(iter(module.train_dataloader()))
        DATA[settings] = batch["image"].numpy().tobytes()
    return DATA[settings]


def _shapes(config: RunConfig) -> str:
    """Names and shapes of a published size's parameters, which would take too long to compute with."""
    with torch.device("meta"):
        return str([(name, tuple(p.shape)) for name, p in GENERATORS.build(config.generator).named_parameters()])


@pytest.mark.parametrize("preset", ["aim/demo", "dimba/demo", "maskmamba/text-demo", "mmamba/demo"])
def test_the_same_configuration_is_the_same_model(preset: str) -> None:
    """Or else every value would seem to change something."""
    config = load_config(preset, {"generator.depth": 2})
    assert _fingerprint(config) == _fingerprint(config)


@pytest.mark.parametrize(("sweep_name", "axis_name"), _axes())
def test_every_value_changes_something(sweep_name: str, axis_name: str) -> None:
    sweep = load_sweep(sweep_name)
    axis = sweep.axis(axis_name)
    choices = _choices(sweep, axis)
    assert len(choices) >= 2
    found: dict[str, str] = {}
    for choice in choices:
        config = _config(sweep, axis, choice)
        large = choice.overrides.get("generator.width", 0) > LARGEST
        fingerprint = _shapes(config) if large else _fingerprint(config)
        assert fingerprint not in found, f"{choice.label} and {found[fingerprint]} are the same model"
        found[fingerprint] = choice.label


UNREAD: dict[str, tuple[str, tuple[Any, Any], dict[str, Any], str, dict[str, Any]]] = {
    "generator.adaln_groups": ("aim/demo", (1, 2), {"generator.adaln": "per_layer"}, "aim/demo", {}),
    "generator.adaln_layout": (
        *("aim/demo", ("interleaved", "contiguous"), {"generator.adaln": "single"}),
        *("aim/demo", {"generator.adaln_groups": 2}),
    ),
    "generator.caption_prefix": (
        *("aim/demo", ("tokens", "mean"), {}),
        *("aim/demo", {"generator.condition": "text", "data.condition": "caption", "text_encoder.name": "minilm"}),
    ),
    "generator.null_mask": ("dimba/demo-class", ("full", "prompt"), {}, "dimba/demo", {}),
    "generator.mask_padding": ("maskmamba/demo", (False, True), {}, "maskmamba/text-demo", {}),
    "generator.group_match": (
        *("maskmamba/demo", ("width", "parameters"), {"generator.hybrid_scheme": "serial_v2"}),
        *("maskmamba/demo", {"generator.hybrid_scheme": "group_v1"}),
    ),
    "generator.bi_mamba_v2.d_state": (
        *("maskmamba/demo", (8, 16), {"generator.mixer": "bi_mamba"}),
        *("maskmamba/demo", {"generator.mixer": "bi_mamba_v2"}),
    ),
    "generator.bi_mamba.d_state": (
        *("maskmamba/demo", (8, 16), {"generator.mixer": "attention"}),
        *("maskmamba/demo", {"generator.mixer": "bi_mamba"}),
    ),
    "objective.mask_ratio_low": (
        *("maskmamba/demo", (0.3, 0.5), {"objective.mask_ratio": "cosine"}),
        *("maskmamba/demo", {"objective.mask_ratio": "uniform"}),
    ),
    "objective.mask_ratio_high": (
        *("maskmamba/demo", (0.9, 1.0), {"objective.mask_ratio": "cosine"}),
        *("maskmamba/demo", {"objective.mask_ratio": "mage"}),
    ),
    "objective.mask_ratio_mean": (
        *("maskmamba/demo", (0.55, 0.8), {"objective.mask_ratio": "uniform"}),
        *("maskmamba/demo", {"objective.mask_ratio": "mage"}),
    ),
    "objective.mask_ratio_std": (
        *("maskmamba/demo", (0.1, 0.25), {"objective.mask_ratio": "uniform"}),
        *("maskmamba/demo", {"objective.mask_ratio": "mage"}),
    ),
    "objective.variance_weight": (
        *("dimba/demo", (0.5, 1.0), {"generator.learned_variance": False}),
        *("dimba/demo", {"generator.prediction": "noise", "generator.learned_variance": True}),
    ),
}
"""Key -> two values of it; a preset and settings that do not read it; a preset and settings that do."""


@pytest.mark.parametrize("key", UNREAD)
def test_a_key_that_is_refused_would_change_nothing(key: str) -> None:
    preset, values, settings, reading, others = UNREAD[key]

    def fingerprints(preset: str, settings: dict[str, Any]) -> set[str]:
        tiny = {"generator.depth": 4, **({} if preset.startswith("dimba") else {"generator.dropout": 0.0})}
        return {_fingerprint(load_config(preset, {**tiny, **settings, key: value})) for value in values}

    assert len(fingerprints(preset, settings)) == 1 and len(fingerprints(reading, others)) == 2
    usual = attrgetter(key)(load_config(preset, settings))
    words = [f"{name}={str(value).lower()}" for name, value in settings.items()]
    load_config(preset, [*words, f"{key}={str(usual).lower()}"])
    for value in set(values) - {usual}:
        with pytest.raises(UserError, match=f"^{key} is not read beside .*; leave it out, or set "):
            load_config(preset, [*words, f"{key}={str(value).lower()}"])
        load_config(reading, [f"{name}={str(value).lower()}" for name, value in {**others, key: value}.items()])


def test_every_key_that_is_refused_is_tried() -> None:
    assert {key.removesuffix(".d_state") for key in UNREAD} == set(READ_BESIDE)
