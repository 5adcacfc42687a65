"""Autoregressive runs as a user asks for them: presets of the published sizes, and requests that cannot be met."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments.commands.finished import check_request
from experiments.config import load_config, preset_names
from experiments.errors import UserError
from experiments.networks import count_parameters
from lightning_modules.generators.config import GENERATORS

# Total, and without the tables of tokens, positions and classes where a paper counts so (AiM, Table 3).
PUBLISHED = {
    "aim/b": (147_622_080, 134_073_024),
    "aim/l": (349_760_000, 331_694_592),
    "aim/xl": (763_291_392, 736_193_280),
    "aim/1b": (1_335_944_192, 1_299_813_376),
    "aim/llamagen-b": (110_888_448, 97_536_768),
    "aim/llamagen-l": (342_910_976, 325_108_736),
    "aim/llamagen-xl": (774_699_520, 752_446_720),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_hold_the_published_sizes(preset: str) -> None:
    with torch.device("meta"):
        counts = count_parameters(GENERATORS.build(load_config(preset).generator))
    assert tuple(counts.values()) == PUBLISHED[preset]


@pytest.mark.parametrize(("preset", "batches"), [("aim/l", 626), ("aim/llamagen-b", 5_004), ("maskmamba/eq1-l", 1_251)])
def test_recipes_of_300_epochs_have_as_many_steps(preset: str, batches: int) -> None:
    """Whole batches of ImageNet's 1,281,167 images; AiM's code makes a step of the rest as well."""
    trainer = load_config(preset).trainer
    assert 1_281_167 // trainer.batch_size == batches - (preset == "aim/l")
    assert trainer.max_steps == 300 * batches


@pytest.mark.parametrize("size", ["b", "l", "xl"])
def test_official_presets_differ_by_the_released_codes_quirks_alone(size: str) -> None:
    paper, official = load_config(f"aim/{size}"), load_config(f"aim/official-{size}")
    assert (official.optim.weight_decay, official.objective.validation_dropout) == (0.0, 0.1)
    assert official.sampler.position_shift == "official"
    assert (official.data.name, official.data.resize, official.data.flip) == ("imagenet_online", 0, False)
    assert official.generator.adaln_init == ("zero" if size == "b" else "random")
    official.optim, official.objective, official.sampler = paper.optim, paper.objective, paper.sampler
    official.data = paper.data
    official.generator.adaln_init, official.preset = paper.generator.adaln_init, paper.preset
    assert official == paper


def test_small_models_of_both_kinds_are_of_one_size() -> None:
    for scale in ("demo", "small"):
        sizes = []
        for preset in (f"aim/{scale}", f"aim/llamagen-{scale}"):
            with torch.device("meta"):
                sizes.append(count_parameters(GENERATORS.build(load_config(preset).generator))["parameters"])
        assert max(sizes) / min(sizes) < 1.1
    assert {"aim/demo", "aim/small"} <= set(preset_names())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sampler.guidance_interval=[0,1.5]", "guidance_interval=[0.0, 1.5]"),
        ("sampler.guidance_interval=[0.9,0.1]", "first <= second"),
        ("sampler.position_shift=wrong", "official"),
        ("sampler.name=maskgit", "objective.name=masked"),
        ("objective.validation_dropout=1", "validation_dropout"),
        ("generator.mamba2.head_width=48", "head_width=48"),
    ],
)
def test_bad_overrides_are_one_clear_sentence(override: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("aim/demo", [override])
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "asked", "said"),
    [
        ("aim/demo", {"fills_in": True}, "aim-1 is autoregressive: only masked generators"),
        ("aim/demo", {"prompts": ("red apple",)}, "--prompt needs a run that is conditioned on captions"),
        ("dimba/demo", {"class_name": "flags"}, "--class needs a run that is conditioned on classes"),
    ],
)
def test_what_a_run_cannot_draw_is_refused(preset: str, asked: dict[str, Any], said: str) -> None:
    run: Any = SimpleNamespace(is_done=lambda: True, id="aim-1")
    nothing: dict[str, Any] = {"class_name": None, "prompts": (), "fills_in": False}
    check_request(load_config(preset), run, **nothing)
    with pytest.raises(UserError, match=said):
        check_request(load_config(preset), run, **nothing | asked)
