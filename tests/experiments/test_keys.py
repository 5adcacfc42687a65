"""`ablate keys`: every key of a preset, none that is not one, with the texts of the dataclasses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from experiments.config import load_config, load_unresolved, to_dict
from experiments.identity import run_id
from experiments.keys import keys_of
from experiments.presets import preset_names
from experiments.run_config import SECTIONS, RunConfig

FILLED_IN = ("preset", "imported", "data.image_size", "data.classes")


def _leaves(node: object, prefix: str = "") -> set[str]:
    if not isinstance(node, dict) or prefix == "search.overrides":
        return {prefix}
    return {leaf for key, value in node.items() for leaf in _leaves(value, f"{prefix}.{key}".lstrip("."))}


@pytest.mark.parametrize(
    "preset", ["maskmamba/demo", "maskmamba/text-paper", "aim/official-b", "dimba/demo", "mmamba/demo"]
)
def test_every_key_is_listed_and_can_be_set_to_its_value(preset: str) -> None:
    config = load_unresolved(preset)
    keys = {key.name: key for key in keys_of(config)}
    filled_in = _leaves(to_dict(config)) - keys.keys()
    assert all(name.endswith("fingerprint") or name in FILLED_IN for name in filled_in)
    words = [
        f"{key.name}={key.typed}" for key in keys.values() if key.value is not None and key.typed not in ("", "{}")
    ]
    assert load_unresolved(preset, words) == config
    assert run_id(load_config(preset, words)) == run_id(load_config(preset))


def test_every_preset_has_keys_with_a_type() -> None:
    for preset in preset_names():
        assert all(key.type for key in keys_of(load_unresolved(preset)))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_every_part_says_what_it_means(section: str) -> None:
    for name in SECTIONS[section].names():
        config = replace(RunConfig(), **{section: SECTIONS[section][name].config()})
        assert not [f"{key.name} of {name}" for key in keys_of(config) if not key.doc]


def test_values_choices_and_meaning_are_told(ablate) -> None:
    code, out, err = ablate("keys", "maskmamba/demo", "generator", "trainer.patience", "--json")
    keys = {key["name"]: key for key in json.loads(out)}
    assert code == 0 and all(name.startswith("generator.") or name == "trainer.patience" for name in keys), err
    assert keys["generator.hybrid_scheme"]["type"] == "uniform | serial_v1 | serial_v2 | group_v1 | group_v2"
    assert keys["generator.width"] | {"doc": ""} == {"name": "generator.width", "value": 160, "type": "int", "doc": ""}
    assert keys["generator.width"]["doc"] == "Model width C."  # of the base class, in whose source it is written
    assert "SSM state size" in keys["generator.bi_mamba_v2.d_state"]["doc"]
    assert keys["trainer.patience"]["doc"].startswith("Early stopping:")
    code, out, _ = ablate("keys", "maskmamba/demo", "data", "data.name=folder")  # of a folder that is not named yet
    assert code == 0 and "data.root" in out and "data.styles" not in out and "coco" in out
    code, out, _ = ablate("keys")
    assert code == 0 and "maskmamba/text-demo" in out and "ablate keys PRESET" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["maskmamba/dmeo"], "Did you mean 'maskmamba/demo'?"),
        (["maskmamba/demo", "generater"], "Did you mean 'generator'?"),
        (["maskmamba/demo", "generator.detph=3"], "detph"),
    ],
)
def test_wrong_words_are_one_sentence(ablate, words: list[str], said: str) -> None:
    code, _, err = ablate("keys", *words)
    assert code == 2 and said in err


def test_mixers_and_layers_are_listed_by_name() -> None:
    keys = {key.name: key.type for key in keys_of(load_unresolved("maskmamba/demo", ["benchmark.name=layer"]))}
    assert keys["generator.mixer"] == "attention | bi_mamba | bi_mamba_v2"
    assert keys["benchmark.layer"] == "transformer | attention | bi_mamba | bi_mamba_v2"
