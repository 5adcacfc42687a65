"""Options of benchmarks as words of a command line."""

import inspect

import pytest

from experiments.benchmarks import BENCHMARKS, function_of
from experiments.benchmarks.options import OVERRIDES, defaults_of, parse_options, words_of
from experiments.errors import UserError
from tests.benchmarks.tiny import TINY


@pytest.mark.parametrize("name", BENCHMARKS)
def test_options_are_typed_as_they_are_printed(name: str) -> None:
    function = function_of(name)
    expected = {key: p.default for key, p in inspect.signature(function).parameters.items() if key != OVERRIDES}
    words = [word for word in defaults_of(function) if not word.endswith("=")]  # an empty text
    found = parse_options(function, words)
    assert words_of(found) == words and len(found) >= len(expected) - 1
    for key, value in found.items():
        default = expected[key]
        assert (tuple(value) if isinstance(default, tuple) else value) == default
    tiny = {key: value for key, value in TINY[name].items() if value != []}
    assert parse_options(function, words_of(tiny)).keys() == tiny.keys()


@pytest.mark.parametrize(
    ("name", "word", "said"),
    [
        (
            "scan",
            "shape=8x768x257",
            r"no option 'shape'. Did you mean 'shapes'\? It has shapes, seconds, backends, peers.",
        ),
        ("scan", "shapes=8x768", r"'8x768' is not 3 numbers with an x between them; the default is shapes=8x768x257,"),
        ("scan", "shapes=0x768x257", "'0' is not a whole number of at least 1"),
        ("scan", "seconds", "'seconds' is not an option; write KEY=VALUE"),
        ("scan", "seconds=long", "'long' is not a number of at least 0; the default is seconds=12"),
        ("scan", "generator.depth=2", "no option 'generator.depth'"),
        ("train-step", "preset=aim/demo", r"Did you mean 'presets'\?.* any key of its presets"),
        ("train-step", "overrides=foo", "no option 'overrides'. It has presets, batch, seconds, and any key"),
        ("sampler", "batches=1,", "'' is not a whole number of at least 1"),
        ("loader", "phases=hot", "'hot' is none of cold, warm"),
    ],
)
def test_a_wrong_option_is_refused_in_a_sentence(name: str, word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_options(function_of(name), [word])


def test_keys_of_presets_and_zeros_are_taken() -> None:
    words = ["presets=aim/demo,dimba/demo", "generator.depth=2", "trainer.ema_decay=0.9"]
    overrides = {"generator.depth": "2", "trainer.ema_decay": "0.9"}
    found = parse_options(function_of("train-step"), words)
    assert found == {"presets": ["aim/demo", "dimba/demo"], "overrides": overrides} and words_of(found) == words
    assert parse_options(function_of("loader"), ["workers=0"]) == {"workers": [0]}


@pytest.mark.parametrize(
    "word",
    [
        "optim.betas=[0.9,0.95]",
        "sampler.guidance_interval=[0.5,1]",
        "data.labels=null",
        "data.of={a: [1,b]}",
        "optim.lr=3e-4",
        "trainer.compile=true",
        "seconds=12345678",
        "seconds=0.123456789",
        "seconds=1e+22",
    ],
)
def test_the_command_that_is_recorded_gives_the_same_options(word: str) -> None:
    function = function_of("train-step")
    found = parse_options(function, [word])
    assert parse_options(function, words_of(found)) == found
