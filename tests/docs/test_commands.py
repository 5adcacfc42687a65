"""Every `ablate` command in the documentation is one that the command line takes: its options, names and keys exist.

Nothing is run: arguments are parsed, sweeps and presets are looked up, and KEY=VALUE words go into the configuration.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import click
import pytest
import yaml

import experiments.config
from datamodules.store_format import tokenizer_settings
from experiments.benchmarks import function_of
from experiments.benchmarks.options import parse_options
from experiments.cli import COMMANDS
from experiments.commands.parts import text_encoder_config, tokenizer_config
from experiments.commands.tokenize import tokenize_command
from experiments.config import load_config, load_unresolved
from experiments.errors import UserError
from experiments.keys import keys_of, select
from experiments.run_config import RunConfig
from sweeps.axes import labels_of, matches
from sweeps.definition import load_sweep, sweep_names
from sweeps.request import parse_request

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / name for name in ("README.md", "datamodules/README.md", "sweeps/README.md", "reports/README.md")]
PAGES += sorted(PROJECT.glob("docs/*.md"))
RUNS = [f"{system}/demo" for system in ("maskmamba", "aim", "dimba")]
"""What RUN may stand for."""
COLLECTIONS = {"imagenet", "cc3m", "coco", "folder", "store", "merge"}
PLAIN = (str, int, tuple, list)
"""What words become; anything else stands for a parameter that was not given."""
SWEEP_COMMANDS = {"plan", "run", "status", "logs", "cancel", "retry", "report", "explain", "reproduce", "board"}


def commands_of(page: Path) -> Iterator[str]:
    """The commands in a page's code: continued lines joined, "${NAMES[@]}" filled in, chains and wrapped ones apart."""
    text = page.read_text()
    for name, words in re.findall(r"^([A-Z]+)=\((.*)\)$", text, re.MULTILINE):
        text = text.replace(f'"${{{name}[@]}}"', words)
    blocks = re.findall(r"^```(?:bash|sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    for line in re.sub(r"\\\n\s*", " ", "\n".join([*blocks, *indented])).splitlines():
        for words in re.split(r"&&|\|\||;|(?<=\S) {3,}", line):  # three spaces: what is said about a command
            if found := re.search(r"--wrap '(ablate .*)'|^\s*(?:\$ )?(ablate .*)", words):
                yield found[1] or found[2]


def _cases() -> list[object]:
    return [
        pytest.param(line, id=f"{page.relative_to(PROJECT)}: {line.partition('#')[0].strip()}")
        for page in PAGES
        for line in dict.fromkeys(commands_of(page))
    ]


def _arguments(command: click.Command, words: list[str]) -> dict[str, object]:
    """What each parameter is given. Raises click's errors for unknown options, choices, and what is left over."""
    context = click.Context(command)
    given, rest, _ = command.make_parser(context).parse_args(list(words))
    assert not rest, f"{rest} is too much"
    for parameter in command.params:
        value = given.get(parameter.name)
        assert isinstance(value, PLAIN) or not parameter.required, f"{parameter.name} is missing"
        if isinstance(parameter.type, click.Choice) and isinstance(value, str):
            parameter.type.convert(value, parameter, context)
    defaults = {parameter.name: parameter.get_default(context) for parameter in command.params}
    found = {name: given[name] if isinstance(given.get(name), PLAIN) else defaults[name] for name in defaults}
    return {name: value if isinstance(value, PLAIN) else None for name, value in found.items()}


def _words(given: dict[str, object], name: str) -> list[str]:
    value = given.get(name)
    return [str(word) for word in value] if isinstance(value, tuple | list) else []


def _is_placeholder(word: str) -> bool:
    return word.isupper() or word.startswith("path/")


def _sweep_takes(name: str, scale: str, words: list[str], root: Path) -> None:
    sweep = load_sweep(name)
    request = parse_request(sweep, sweep.scale(scale), words, root)
    settings = sweep.config.scales[sweep.scale(scale)]
    load_config(settings.preset, {**settings.overrides, **request.config})


def _any_run_takes(words: list[str]) -> None:
    errors = []
    for preset in RUNS:
        try:
            load_config(preset, words)
            return
        except UserError as error:
            errors.append(str(error))
    raise UserError(errors[0])


def check(words: list[str], root: Path) -> None:
    """Raise an error of some kind where the command line would not take the words after `ablate`."""
    name, *rest = words
    assert name in COMMANDS, f"there is no command {name}"
    module, _, attribute = COMMANDS[name].partition(":")
    given = _arguments(getattr(import_module(module), attribute), rest)
    if name in SWEEP_COMMANDS and (sweep := str(given["sweep"] or "")) and not _is_placeholder(sweep):
        cell = [str(given["cell"])] if "=" in str(given.get("cell", "")) else []
        words = [*_words(given, "overrides"), *_words(given, "changes"), *cell]
        _sweep_takes(sweep, str(given["scale"] or ""), words, root)
    elif name == "train":
        load_config(str(given["preset"]), _words(given, "overrides"))
    elif name == "keys" and (preset := str(given["preset"] or "")) and not _is_placeholder(preset):
        words = _words(given, "words")
        found = keys_of(load_unresolved(preset, [word for word in words if "=" in word]))
        select(found, [word for word in words if "=" not in word], preset)
    elif name in ("evaluate", "sample"):
        overrides = _words(given, "overrides")
        assert all(word.startswith(("sampler.", "evaluation.", "runtime.")) for word in overrides)
        _any_run_takes(overrides)
    elif name == "import-checkpoint":
        load_config(str(given["preset"] or f"{given['kind']}/paper"), _words(given, "overrides"))
    elif name in ("tokenize", "reference"):
        assert given["dataset"] in COLLECTIONS, given["dataset"]
        settings = _words(given, "settings")
        of_text = tuple(word for word in settings if word.startswith("text_encoder."))
        of_images = tuple(word for word in settings if word not in of_text)
        if of_images:
            with pytest.raises(FileNotFoundError, match="not found"):  # of the weights alone: all keys are there
                tokenizer_config(str(given["tokenizer"]), of_images)
        if of_text:  # a folder that is not there might be a name on the hub
            text_encoder_config(str(given["text_encoder"]), of_text)
    elif name == "bench" and given["name"]:
        parse_options(function_of(str(given["name"])), _words(given, "options"))


@pytest.fixture(autouse=True)
def unresolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations without the files that they name."""
    monkeypatch.setattr(experiments.config, "resolve", lambda config: config)


@pytest.mark.parametrize("line", _cases())
def test_every_command_is_taken(line: str, tmp_path: Path) -> None:
    words = shlex.split(line, comments=True)[1:]
    recipes = re.findall(r"^\+name: (\S+)", (PROJECT / "docs" / "extending.md").read_text(), re.MULTILINE)
    if words[1:2] and words[1] in recipes:
        words[1] = sweep_names()[0]
        words = words[:2]
    if {"generator.name=maskconv", "generator.mixer=gated_conv", "generator.hybrid_scheme=serial_reverse"} & {*words}:
        return  # recipes of docs/extending.md; tests/docs/test_recipes.py runs them
    check(words, tmp_path)


def _store_of(words: list[str]) -> str:
    """What `ablate tokenize` makes with these words, as `_store_for` says it."""
    given = _arguments(tokenize_command, words)
    encoder = str(given["text_encoder"] or "none")
    settings = [w if w.startswith("text_encoder.") else f"tokenizer.{w}" for w in _words(given, "settings")]
    names = {"tokenizer.name": given["tokenizer"], "text_encoder.name": encoder}
    config = load_unresolved("maskmamba/paper", [f"{key}={value}" for key, value in names.items()] + settings)
    return _store_for(str(given["dataset"]), config)


def _store_for(dataset: str, config: RunConfig) -> str:
    """Which store a run needs: the data set and all settings but the places of weights."""
    parts = [tokenizer_settings(config.tokenizer), asdict(config.text_encoder)]
    kept = [{k: v for k, v in part.items() if k not in ("model", "revision", "fingerprint")} for part in parts]
    return repr((dataset, config.tokenizer.name, kept))


def _paper_runs() -> Iterator[tuple[str, RunConfig]]:
    for name in sweep_names():
        sweep = load_sweep(name)
        if sweep.config.measure == "benchmark":
            continue
        for choices in sweep.combinations(sweep.config.scales["paper"].only):
            labels = labels_of(choices)
            if any(matches(labels, when) for when, _ in sweep.exclude):
                continue
            preset, base = sweep.base("paper", labels)
            varied = {key: value for choice in choices.values() for key, value in choice.overrides.items()}
            yield name, load_unresolved(preset, {**base, **varied})


def test_the_stores_of_every_paper_scale_have_a_command() -> None:
    section = (PROJECT / "sweeps" / "README.md").read_text().partition("## What `--scale paper` needs")[2]
    lines = re.findall(r"^ablate tokenize (.*)$", section, re.MULTILINE)
    made, needed = {_store_of(line.split()): line for line in lines}, set[str]()
    for name, config in _paper_runs():
        store = _store_for(config.data.name, config)
        assert store in made, f"{name} needs {store}"
        needed.add(store)
        if prompts := config.evaluation.dataset:
            needed |= {found for found, line in made.items() if line.startswith(f"{prompts} ")}
    assert needed == made.keys() and len(made) == len(lines), "and every command is of use"


@pytest.mark.parametrize(
    "line",
    [
        "tarin maskmamba/demo",
        "train maskmamba/dmeo",
        "train maskmamba/demo trainer.max_step=3",
        "run maskmamba-hybrid-schemes --lancher slurm",
        "run maskmamba-hybrid-schemes hybrid_scheme=serial_v9",
        "run maskmamba-hybrid-schemes resources.gpu=1",
        "plan maskmamba-hybrid-scheme",
        "plan maskmamba-hybrid-schemes --scale huge",
        "evaluate RUN sampler.guidence=3",
        "keys maskmamba/demo generater",
        "import-checkpoint dit FILE",
        "tokenize imagenet --out DIR weight=x.pt",
        "bench scam",
        "bench scan shape=8x768x257",
    ],
)
def test_a_wrong_command_would_be_found(line: str, tmp_path: Path) -> None:
    with pytest.raises((UserError, click.ClickException, AssertionError, ValueError)):
        check(line.split(), tmp_path)


def test_the_site_file_of_the_cluster_page_is_taken(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "cluster.md").read_text()
    (site,) = re.findall(r"^```yaml\n# outputs/slurm.yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "slurm.yaml").write_text(site)
    sweep = load_sweep("maskmamba-hybrid-schemes")
    resources = parse_request(sweep, "paper", (), tmp_path).resources
    assert {key: getattr(resources, key) for key in yaml.safe_load(site)} == yaml.safe_load(site)
