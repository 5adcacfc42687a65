"""Configuration: presets, overrides, errors in one sentence, and identity that neither drifts nor collides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from experiments.commands.single import ROOT_OPTION
from experiments.config import build_config, load_config, preset_names, read_config, save_config
from experiments.errors import UserError
from experiments.files import default_root
from experiments.identity import NOT_SEMANTIC, evaluation_id, run_id, semantic, training_hash
from experiments.run_config import SECTIONS
from lightning_modules.registry import Registry
from sweeps.definition import load_sweep
from sweeps.request import parse_request

FIXED = {"tokenizer.weights": "", "data.name": "emoji"}
"""Random tokenizer weights, so that hashes do not depend on the embedded file."""

RECONSTRUCTION = "objective.name=reconstruction"


def _load(preset: str = "maskmamba/demo", **overrides):
    return load_config(preset, {**FIXED, **{k.replace("__", "."): v for k, v in overrides.items()}})


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_loads(preset: str) -> None:
    config = load_config(preset)
    assert config.preset == preset and run_id(config)


def test_values_take_the_type_of_their_field() -> None:
    config = load_config(
        "maskmamba/demo",
        ["optim.lr=1e-3", "trainer.max_steps=12", "generator.tied_head=false", "optim.betas=[0.8,0.9]", "seed=3"],
    )
    assert (config.optim.lr, config.trainer.max_steps, config.generator.tied_head) == (1e-3, 12, False)
    assert (config.optim.betas, config.seed) == ([0.8, 0.9], 3)


def test_a_choice_among_numbers_can_be_typed() -> None:
    assert load_config("mmamba/demo", ["generator.cross_scan.directions=2"]).generator.cross_scan.directions == 2
    with pytest.raises(UserError, match=r"directions=3: .*expected one of \[1, 2, 4\]"):
        load_config("mmamba/demo", ["generator.cross_scan.directions=3"])


def test_a_section_changes_its_kind_by_name() -> None:
    config = _load(sampler__name="halton", sampler__steps=9)
    assert type(config.sampler).__name__ == "HaltonConfig" and config.sampler.steps == 9


@pytest.mark.parametrize(
    "overrides", [["sampler={name: halton, steps: 9}"], {"sampler": {"name": "halton"}, "sampler.steps": 9}]
)
def test_a_section_given_whole_is_its_keys_one_by_one(overrides: object) -> None:
    assert load_config("maskmamba/demo", overrides) == load_config(
        "maskmamba/demo", ["sampler.name=halton", "sampler.steps=9"]
    )


@pytest.mark.parametrize(
    ("preset", "words", "kept"),
    [
        ("maskmamba/text-demo", ["data.name=folder"], {"condition": "caption", "best_share": 1.0}),
        ("maskmamba/text-paper", ["data.name=folder"], {"condition": "caption"}),  # cc3m's, which the preset leaves out
        ("maskmamba/demo", ["data.name=imagenet"], {"condition": "class"}),
        ("dimba/small-tune", ["data.name=folder"], {"condition": "caption", "best_share": 0.1}),
        ("dimba/small-tune", ["data.name=folder", "data.best_share=1"], {"condition": "caption", "best_share": 1.0}),
        ("maskmamba/text-demo", ["data.name=coco"], {"condition": "caption"}),
        (  # what the other data set cannot give is not asked of it
            "maskmamba/text-demo",
            ["data.name=imagenet", "generator.condition=class", "text_encoder.name=none"],
            {"condition": "class"},
        ),
    ],
)
def test_another_data_set_is_asked_for_the_same(preset: str, words: list[str], kept: dict[str, object]) -> None:
    data = load_config(preset, words).data
    assert {key: getattr(data, key) for key in kept} == kept and data.name == words[0].partition("=")[2]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.name=foldr"], ["foldr", "Did you mean 'folder'?"]),
        (["generator.detph=12"], ["detph", "depth"]),
        (["max_steps=5"], ["max_steps=5", "Did you mean 'trainer.max_steps'?", "sampler"]),
        (["traner.max_steps=5"], ["Did you mean 'trainer.max_steps'?"]),
        (["qzx=5"], ["a run has no key 'qzx'. A key is written with its section", "trainer"]),
        (["trainer.max_steps=many"], ["trainer.max_steps=many", "many"]),
        (["trainer.max_steps=1e3"], ["trainer.max_steps=1e3"]),
        (["generator.hybrid_scheme=serial_v3"], ["serial_v3", "serial_v2"]),
        (["sampler.name=maskgti"], ["maskgti", "Did you mean 'maskgit'?"]),
        (["trainer.max_steps"], ["trainer.max_steps", "key=value"]),
        (["generator=12"], ["generator is a section", "depth"]),
        (["optim.betas=[0.9"], ["optim.betas", "YAML"]),
        (["optim.betas=[&a [*a]]"], ["optim.betas", "YAML"]),
        (["optim.betas=[2026-13-01]"], ["optim.betas", "YAML"]),
        (["sampler={steps: 3, steps: 4}"], ["sampler={steps: 3, steps: 4}", "'steps' is there twice"]),
        (["trainer.max_steps=0"], ["max_steps=0", "at least 1"]),
        (["sampler.guidance=-1"], ["guidance=-1", "at least 0"]),
        (["generator.vocab_size=7"], ["vocab_size=7", "tokenizer", "512"]),
        (["data.styles=[twemojy]"], ["twemojy", "twemoji"]),
        (["tokenizer.weights=/nowhere/x.safetensors"], ["/nowhere/x.safetensors", "not found"]),
        (["generator.condition=text"], ["generator.condition=text", "data.condition=caption"]),
        (["data.condition=caption"], ["generator.condition=text", "data.condition=class"]),
        (["data.condition=caption", "generator.condition=text"], ["text_encoder.name=none", "need a text encoder"]),
        (["trainer.accumulate=7"], ["batch_size=64", "multiple"]),
        *(
            ([f"runtime.{key}={bound - 1}"], [f"runtime.{key}={bound - 1}", f"at least {bound}"])
            for key, bound in {
                "devices": 1,
                "num_nodes": 1,
                "log_every": 1,
                "val_every": 1,
                "checkpoint_every": 1,
                "sample_every": 0,
                "num_workers": 0,
                "threads": 0,
                "most_equal_failures": 0,
            }.items()
        ),
        (["generator={name: aim}"], ["generator.name=aim is made for objective.name=autoregressive"]),
        (["sampler[name]=halton"], ["brackets", "write sampler.name=halton."]),
        (["trainer[max_steps]=5", "trainer.max_steps=7"], ["brackets", "write trainer.max_steps=5."]),
        (["trainer[init_fingerprint]=abc"], ["brackets", "trainer.init_fingerprint"]),
        (["optim.betas[0]=0.5"], ["brackets", "write optim.betas.0=0.5."]),
        (["sampler.name="], ["sampler.name needs a value", "maskgit"]),
        (["sampler.name=null"], ["sampler.name needs a value"]),
        (["sampler={}"], ["sampler needs a value"]),
        (["optim.lr=0.001", "optim.lr=0.002"], ["optim.lr is given twice, 0.001 and 0.002"]),
        (["sampler={steps: 3}", "sampler.steps=4"], ["sampler.steps is given twice, 3 and 4"]),
        (["preset=aim/demo"], ["preset is filled in", "leave preset=aim/demo out"]),
        (["tokenizer.fingerprint=abc"], ["tokenizer.fingerprint is filled in"]),
        (["data={fingerprint: abc}"], ["data.fingerprint is filled in"]),
        (["data.classes=[a,b]"], ["data.classes is filled in"]),
        (["seed=-1"], ["seed=-1", "at least 0"]),
        (["seed=100000000000000000000"], ["seed=100000000000000000000", "2**63"]),
        (["optim.warmup_steps=-3"], ["optim.warmup_steps=-3", "at least 0"]),
        (["optim.lr=nan"], ["optim.lr=nan", "positive"]),
        (["optim.lr=inf"], ["optim.lr=inf", "finite"]),
    ],
)
def test_bad_overrides_are_one_clear_sentence(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config("maskmamba/demo", overrides)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and len(message) < 400


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["runtime.threads=99999999999"], "runtime.threads=99999999999 must be at most 4096; 0 takes all cores."),
        (["trainer.max_steps=0"], "trainer.max_steps=0 must be at least 1."),
        (["trainer.accumulate=0"], "trainer.accumulate=0 must be at least 1."),
        ([f"trainer.max_steps={10**20}"], f"trainer.max_steps={10**20} must be less than 2**63."),
        ([f"data.subset={10**400}"], f"data.subset={10**400} must be less than 2**63."),
        (["sampler.guidance=-3"], "sampler.guidance=-3.0 must be at least 0."),
        (["sampler.top_p=2"], "sampler.top_p=2.0 must be in (0, 1]."),
        (["evaluation.batch_size=0"], "evaluation.batch_size=0 must be at least 1."),
        (["benchmark.name=layer", "benchmark.length=0"], "benchmark.length=0 must be at least 1."),
        (["generator.heads=0"], "generator.heads=0 must be at least 1."),
        (["generator.name=dimba", "generator.heads=-4"], "generator.heads=-4 must be at least 1."),
        (["generator.name=dimba", "generator.patch_size=0"], "generator.patch_size=0 must be at least 1."),
        (["generator.name=uvit", "generator.heads=0"], "generator.heads=0 must be at least 1."),
        (["generator.name=uvit", "generator.ff_width=0"], "generator.ff_width=0 must be at least 1."),
        (["generator.name=mmamba", "generator.end_heads=0"], "generator.end_heads=0 must be at least 1."),
        ([RECONSTRUCTION, "objective.revive_every=-1"], "objective.revive_every=-1 must be at least 0."),
        ([RECONSTRUCTION, "objective.edge_weight=nan"], "objective.edge_weight=nan must be at least 0."),
        (["generator.dropout=1"], "generator.dropout=1.0 must be in [0, 1)."),
    ],
)
def test_a_number_out_of_range_is_named_alone(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("maskmamba/demo", overrides)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        ("gpu", "runtime.kernels='gpu' is no back end: choose one of auto, cpp, mamba_ssm"),
        ("scan=cpp", "runtime.kernels names no operation 'scan': choose from selective_scan"),
        ("attention=cpp", "runtime.kernels: cpp does not implement attention; flash_attn, torch, reference do."),
    ],
)
def test_kernels_that_nobody_has_are_refused_before_anything_runs(kernels: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("maskmamba/demo", [f"runtime.kernels={kernels}"])
    assert str(caught.value).startswith(said)
    assert load_config("maskmamba/demo", ["runtime.kernels=cpp,ssd=torch"]).runtime.kernels == "cpp,ssd=torch"


@pytest.mark.parametrize(("value", "root"), [(None, "outputs"), ("", "outputs"), ("there", "there")])
def test_everything_takes_the_same_folder_of_outputs_by_default(
    monkeypatch: pytest.MonkeyPatch, value: str | None, root: str
) -> None:
    """Of runs, of a sweep, and of a command; an empty ABLATE_ROOT names none."""
    monkeypatch.delenv("ABLATE_ROOT", raising=False)
    if value is not None:
        monkeypatch.setenv("ABLATE_ROOT", value)
    assert default_root() == root
    assert load_config("maskmamba/demo").runtime.root == root
    assert parse_request(load_sweep("aim-adaln"), "demo", (), None).root == Path(root)
    command = click.command()(ROOT_OPTION(lambda root: root))
    assert command.main([], standalone_mode=False) == root


def test_what_a_generator_cannot_take_is_not_proposed() -> None:
    with pytest.raises(UserError) as caught:
        load_config("mmamba/demo", ["data.condition=class"])
    assert "data.condition=caption" in str(caught.value) and "generator.condition=class" not in str(caught.value)


def test_unknown_preset_names_the_closest() -> None:
    with pytest.raises(UserError, match="Did you mean 'maskmamba/demo'"):
        load_config("maskmamba/dmeo")


def test_own_yaml_file_builds_on_a_preset(tmp_path: Path) -> None:
    base = Path("experiments/configs/maskmamba/demo.yaml").resolve()
    (tmp_path / "mine.yaml").write_text(f"base: {base}\ngenerator: {{depth: 4}}\n")
    config = load_config(str(tmp_path / "mine.yaml"))
    assert config.generator.depth == 4 and config.generator.width == _load().generator.width
    (tmp_path / "loop.yaml").write_text("base: loop.yaml\n")
    with pytest.raises(UserError, match="includes itself"):
        load_config(str(tmp_path / "loop.yaml"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"trainer: {val_every: 10}", ["mine.yaml", "'val_every' not in", "It is 'runtime.val_every'."]),
        (b"optim: {lr: fast}", ["mine.yaml", "fast", "optim.lr"]),
        (b"generator: foo", ["mine.yaml", "generator: 'foo'", "{name: NAME}", "maskmamba"]),
        (b"sampler: 5", ["sampler: 5", "{name: NAME}", "maskgit"]),
        (b"data: [a]", ["data: ['a']", "{name: NAME}", "emoji"]),
        (b"base: 5", ["mine.yaml", "base=5", "path"]),
        (b"base: maskmamba/dmeo", ["mine.yaml", "Did you mean 'maskmamba/demo'?"]),
        (b"\xff", ["mine.yaml", "not valid YAML"]),
        (b"trainer: {max_steps: 5}\ntrainer: {batch_size: 8}", ["mine.yaml", "'trainer' is there twice", "line 2"]),
    ],
)
def test_a_file_of_another_shape_is_one_clear_sentence(tmp_path: Path, text: bytes, words: list[str]) -> None:
    (tmp_path / "mine.yaml").write_bytes(text)
    with pytest.raises(UserError) as caught:
        load_config(str(tmp_path / "mine.yaml"))
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message, message


def test_a_preset_of_ones_own_on_a_named_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: maskmamba/demo\ntrainer: {max_steps: 7}\n")
    mine, demo = load_config(str(tmp_path / "mine.yaml")), load_config("maskmamba/demo", ["trainer.max_steps=7"])
    assert run_id(mine) == run_id(demo)


def test_round_trip_keeps_identity(tmp_path: Path) -> None:
    config = load_config("maskmamba/demo", ["seed=5", "sampler.guidance=4"])
    save_config(config, tmp_path / "config.yaml")
    again = read_config(tmp_path / "config.yaml")
    assert again == config and run_id(again) == run_id(config) and evaluation_id(again) == evaluation_id(config)


def test_golden_hash() -> None:
    """A refactoring must not orphan finished runs: if this fails, stored results no longer belong to their runs."""
    config = build_config(
        {
            "tokenizer": {"name": "emoji_vq", "weights": ""},
            "generator": {"name": "maskmamba", "width": 64, "depth": 4, "heads": 4},
            "trainer": {"max_steps": 10},
        }
    )
    config.data.fingerprint = "fixed"
    assert training_hash(config)[:16] == GOLDEN


GOLDEN = "95691fc145298a61"


def test_what_is_part_of_the_identity() -> None:
    base = _load()
    assert run_id(_load(runtime__num_workers=3, runtime__log_every=7)) == run_id(base)
    assert run_id(_load(sampler__guidance=9.0)) == run_id(base)
    assert evaluation_id(_load(sampler__guidance=9.0)) != evaluation_id(base)
    assert evaluation_id(_load(evaluation__batch_size=3)) == evaluation_id(base)
    for key, value in (("seed", 1), ("generator__bi_mamba_v2__merge", "multiply"), ("optim__lr", 1e-3)):
        assert run_id(_load(**{key: value})) != run_id(base), key


def test_integral_floats_hash_alike() -> None:
    assert training_hash(_load(optim__gradient_clip=2)) == training_hash(_load(optim__gradient_clip=2.0))


def test_declared_exceptions_exist() -> None:
    """A renamed key must not silently become part of the identity, or leave it."""
    config = _load()
    for key in NOT_SEMANTIC:
        section, _, name = key.partition(".")
        registered = SECTIONS[section].entries.values() if section in SECTIONS else ()
        owners = [entry.config() for entry in registered] or [getattr(config, section)]
        assert any(hasattr(owner, name) for owner in owners), key
        assert key not in semantic(config)


@pytest.mark.parametrize("registry", SECTIONS.values(), ids=SECTIONS.keys())
def test_registered_names_are_the_configs_own(registry: Registry) -> None:
    for name in registry.names():
        assert registry[name].config().name == name
        assert registry.target(name)


@pytest.mark.parametrize("module", ["experiments.cli", "experiments.config", "experiments.store", "sweeps.definition"])
def test_import_without_torch(module: str) -> None:
    """Login-node commands must start in a moment."""
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'lightning', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_empty_value_is_an_empty_text() -> None:
    assert load_config("maskmamba/demo", ["tokenizer.weights="]).tokenizer.weights == ""
