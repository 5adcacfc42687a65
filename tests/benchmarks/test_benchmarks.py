"""Every benchmark runs on a tiny case, checks itself first, and leaves JSON and a figure."""

import inspect
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments import claims
from experiments.benchmarks import BENCHMARKS, function_of, run, scan
from experiments.benchmarks.alone import alone, signs_of_other_work
from experiments.benchmarks.bench import FORWARD, TRAINING, Bench, Row
from experiments.benchmarks.loader import batch_spread
from experiments.benchmarks.loader_contenders import (
    LITDATA,
    SHARD,
    WEBDATASET,
    measure,
    write_litdata,
    write_store_of,
    write_webdataset,
)
from experiments.benchmarks.measure import FEWEST_ROUNDS, MOST_REPEATS, in_turns
from experiments.benchmarks.options import OVERRIDES, defaults_of, parse_options, words_of
from experiments.benchmarks.peers import PEERS, scans
from experiments.benchmarks.problem import OURS, fitting, forced, relative_errors, verify
from experiments.errors import UserError
from lightning_modules.backends import DEPTHWISE_CONV1D, ENVIRONMENT_VARIABLE, SELECTIVE_SCAN
from lightning_modules.kernels.implementation import implementation

TINY = {
    "scan": {"shapes": [(1, 24, 33)], "seconds": 0, "peers": ["mambapy"]},
    "cross-scan": {"shapes": [(1, 8, 3, 4)], "seconds": 0},
    "conv": {"shapes": [(1, 24, 33)], "seconds": 0},
    "layer": {"lengths": [16], "width": 32, "heads": 2, "seconds": 0},
    "sampler": {"batches": [2], "steps": 3, "seconds": 0},
    "train-step": {
        "presets": ["maskmamba/demo", "aim/llamagen-demo"],
        "batch": 2,
        "seconds": 0,
        "overrides": {"generator.width": 40, "generator.depth": 2, "generator.heads": 2},
    },
    "plan": {"cells": 6, "seconds": 0},
    "loader": {
        "samples": 9000,
        "length": 8,
        "batch": 32,
        "workers": [0],
        "seconds": 0.05,
        "phases": ["warm"],
        "peers": [],
    },
    "decode": {"presets": ["aim/demo", "aim/llamagen-demo"], "batches": [2], "precisions": ["fp32"], "seconds": 0},
}
PHASES = {
    "decode": {"one token"},
    "loader": {"warm"},
    "sampler": {"sampling"},
    "train-step": {"step"},
    "plan": {"plan"},
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_measures_and_writes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.benchmarks.alone.STEADY", -1.0)
    printed = name == "conv"  # as a table, the others as JSON
    bench = run(name, tmp_path, as_json=not printed, **TINY[name])
    out = tmp_path / "benchmarks" / name
    written, said = json.loads((out / "result.json").read_text()), capsys.readouterr().out
    if printed:
        assert "x floor" in said
        assert re.search(r"checked before timing: cpp, output \d\.\de-\d\d; cpp, gradients", said.replace("\n", " "))
        assert "kernels that ran: depthwise_conv1d cpp+torch\n" in said
    else:
        assert json.loads(said) == written
    assert {row["phase"] for row in written["rows"]} == PHASES.get(name, {FORWARD, TRAINING})
    assert all(error < 1e-5 for error in written["checks"].values())
    baselines = [row for row in bench.rows if row.contender == bench.baseline]
    assert baselines and all(row.ratio == 1 for row in baselines)
    ran = written["machine"]["backends"]
    assert bool(ran) == (name not in ("plan", "loader")) and "reference" not in "+".join(ran.values())
    assert written["machine"]["load_before"] >= 0 and any("baseline's times spread by" in note for note in bench.notes)
    if name == "train-step":  # of all presets
        assert ran["attention"] and ran["selective_scan"]
    if name not in ("plan", "sampler"):  # of the suite's own contenders at least
        assert all(row.floor_ms and row.over_floor for row in baselines)
    if name == "sampler":  # the floor is what was measured in turns with the others
        assert [row.floor_ms for row in bench.rows] == [bench.rows[-1].fastest_ms] * 3 + [None]
    if name == "loader":
        (row,) = written["rows"]
        assert row["rounds"] == 3 and 0 < row["extra"]["samples/s from opening"] < row["extra"]["samples/s"]
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    table = (out / "table.md").read_text()
    assert f"`ablate bench {name} " in table
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(bench.rows) and len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("scan", SELECTIVE_SCAN),
        ("cross-scan", SELECTIVE_SCAN),
        ("conv", "depthwise_conv"),
        ("layer", "depthwise_conv"),
        ("train-step", SELECTIVE_SCAN),
    ],
)
def test_a_wrong_kernel_is_not_timed(
    name: str, operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = implementation("torch", operation)
    monkeypatch.setattr(module, "backward", _slightly_wrong(module.backward))
    monkeypatch.setattr("experiments.benchmarks.limits.limits", lambda threads: {})
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "torch")
    monkeypatch.setattr("experiments.benchmarks.measure.in_turns", lambda *_: pytest.fail("it was timed"))
    with pytest.raises(
        UserError, match=r"^Nothing was timed: .+, gradients: an error of \d\.\de-0\d, where [52]e-0\d is the"
    ):
        run(name, tmp_path, **TINY[name])
    assert not (tmp_path / "benchmarks" / name).exists()


def _slightly_wrong(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    def wrong(*inputs: Any, **more: Any) -> tuple[Tensor | None, ...]:
        return tuple(t if t is None else 1.001 * t for t in backward(*inputs, **more))

    return wrong


def test_nan_is_an_error() -> None:
    inputs = [torch.randn(2, 3, requires_grad=False) for _ in range(2)]
    wrong = relative_errors({"ours": lambda x, w: x * w.sqrt()}, lambda x, w: x * w, [inputs[0], -inputs[1].abs()])
    assert wrong["ours, gradients"] != wrong["ours, gradients"]
    with pytest.raises(UserError, match="ours, output: an error of nan"):
        verify(Bench("b", "b", "ours"), wrong)


def test_no_back_end_left_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No back end is left to run selective_scan \(mamba_ssm: .+\)\. Name one"):
        run("scan", tmp_path, backends=["mamba_ssm"])
    with pytest.raises(UserError, match="Unknown back end 'c'"):
        run("conv", tmp_path, backends=["c"])


def test_a_folder_that_cannot_be_made_is_refused_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("experiments.benchmarks.conv.conv", lambda **_: pytest.fail("it was measured"))
    with pytest.raises(UserError, match="Cannot write"):
        run("conv", tmp_path, out=tmp_path / "file" / "out")


def _instantly(seconds: float = 1.0) -> Bench:
    row = Row("case", "plan", "ours", median_ms=1, fastest_ms=1, spread=0, ratio=1, rounds=3)
    hardware = {"cpu": "a processor", "gpus": [], "git_dirty": False, "git_commit": "", "threads": os.cpu_count()}
    return Bench("plan", "Nothing", baseline="ours", rows=[row], machine=hardware)


def test_a_benchmark_waits_for_another_and_says_what_ran_before(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "ablate")
    monkeypatch.setattr("sweeps.bench.plan_bench", _instantly)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.25, 0, 0))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "torch")
    with ThreadPoolExecutor(1) as pool:
        with alone(tmp_path):
            waiting = pool.submit(run, "plan", tmp_path, seconds=2.0)
            while "measures on this machine; waiting" not in caplog.text:
                assert not waiting.done()
                time.sleep(0.02)
        bench = waiting.result(timeout=20)
    assert bench.machine["load_before"] == 1.25 and bench.machine["forced_kernels"] == "torch"
    assert "a load of 1.2 on" in capsys.readouterr().out
    assert bench.command == "ablate bench plan seconds=2"


def test_who_measures_for_long_shows_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PULSE", 0.02)
    with alone(tmp_path):
        (heartbeat,) = tmp_path.rglob("heartbeat")
        os.utime(heartbeat, (0, 0))
        deadline = time.monotonic() + 20
        while heartbeat.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert heartbeat.stat().st_mtime > 0


def test_other_work_is_told_by_load_and_by_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    steady, unsteady = (
        Row("L=64", "forward", "ours", median_ms=1, fastest_ms=1, spread=spread, ratio=1, rounds=6)
        for spread in (0.2, 0.31)
    )
    assert signs_of_other_work(4.4, 4, [steady]) == signs_of_other_work(None, 8, []) == []
    assert "a load of 4.6 on 8 processors, of which this needs 4" in signs_of_other_work(4.6, 4, [])[0]
    assert "spread by 31% (L=64, forward)" in signs_of_other_work(0.0, 4, [steady, unsteady])[0]


def test_every_round_begins_with_another_contender() -> None:
    order: list[str] = []
    in_turns({name: partial(order.append, name) for name in "abc"}, 0)
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert rounds == ["abc", "bca", "cab"] * (FEWEST_ROUNDS // 3)


def test_distance_to_the_floor_is_that_of_the_fastest_round() -> None:
    row = Row("case", "forward", "ours", median_ms=4, fastest_ms=3, spread=0.1, ratio=1, rounds=3, floor_ms=2)
    assert row.over_floor == 1.5


def test_unknown_names_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'scan'"):
        run("scann", tmp_path)
    with pytest.raises(UserError, match="no option 'shape'"):
        run("scan", tmp_path, shape=1)
    assert not list(tmp_path.iterdir())


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


def test_a_sampler_of_captions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes captions; name a class-conditional preset"):
        run("sampler", tmp_path, preset="maskmamba/text-demo")
    with pytest.raises(UserError, match="samples masked generators, and aim/demo is autoregressive"):
        run("sampler", tmp_path, preset="aim/demo")


def test_scans_of_other_packages_compute_the_same() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("mambapy")
    found = scans("cpu", PEERS)
    assert [name.partition(" ")[0] for name in found] == ["mambapy", "transformers"]
    verify(Bench("scan", "scan", "ours"), relative_errors(found, scan._ours("reference"), scan._inputs(2, 8, 9, "cpu")))


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, experiments.benchmarks; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_spread_of_batches_tells_an_exact_shuffle_from_a_local_one() -> None:
    order = np.random.default_rng(0).permutation(100_000)
    assert 0.97 < batch_spread(order[:12_800].reshape(50, 256), 100_000) < 1.03
    assert batch_spread(np.arange(12_800).reshape(50, 256), 100_000) < 0.02


@pytest.mark.parametrize("contender", [WEBDATASET, LITDATA])
def test_peers_read_the_same_tokens(contender: str, tmp_path: Path) -> None:
    """Every sample comes with its label, so the comparison is one of equal work."""
    pytest.importorskip(contender)
    tokens = np.random.default_rng(0).integers(0, 99, (2 * SHARD, 4), dtype=np.uint16)
    tokens[:, 0], tokens[:, 1] = np.arange(2 * SHARD) % 2**14, np.arange(2 * SHARD) // 2**14
    write_store_of(tmp_path / "store", tokens, 2**14)
    if contender == WEBDATASET:
        write_webdataset(tmp_path / "peer", tokens)
    else:
        write_litdata(tmp_path / "peer", tmp_path / "store", len(tokens))
        (tmp_path / "peer/width.json").write_text("6")
    found = measure(contender, str(tmp_path / "peer"), 32, 0, seconds=0)
    assert found["fits"] and np.array(found["labels"]).shape[1] == 32
    assert found["opening_batches"] == 1 + len(found["batch_s"]) == 100
    waited = found["first_batch_s"] + sum(found["batch_s"])
    assert 0.999 * waited < found["opening_s"] < 2 * waited


def test_only_back_ends_for_the_device_compete() -> None:
    """Where there is a GPU, its tensors never reach the processor's kernels."""
    assert fitting(SELECTIVE_SCAN, OURS, "cpu")[-1] == "torch"
    assert "triton" not in fitting(SELECTIVE_SCAN, OURS, "cpu")
    assert "cpp" not in fitting(SELECTIVE_SCAN, OURS, "cuda")
    assert fitting(DEPTHWISE_CONV1D, OURS, "cuda")[-1] == "torch"


def test_back_ends_are_named_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "torch")
    with forced("reference"):
        assert os.environ[ENVIRONMENT_VARIABLE] == "reference"
        with forced(""):
            assert os.environ[ENVIRONMENT_VARIABLE] == "reference"
    assert os.environ[ENVIRONMENT_VARIABLE] == "torch"


def test_a_gpu_is_given_short_calls_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    times = in_turns({"short": lambda: calls.append(None)}, 0)["short"]
    assert len(times) == FEWEST_ROUNDS
    assert len(calls) == 1 + FEWEST_ROUNDS * MOST_REPEATS
    calls.clear()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    in_turns({"short": lambda: calls.append(None)}, 0)
    assert len(calls) == FEWEST_ROUNDS
