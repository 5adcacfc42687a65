"""Every benchmark runs on a tiny case, checks itself first, and leaves JSON and a figure."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from experiments.benchmarks import BENCHMARKS, function_of, run, scan
from experiments.benchmarks.apart import OwnProcess
from experiments.benchmarks.bench import FORWARD, TRAINING, Bench
from experiments.benchmarks.limits import limits
from experiments.benchmarks.peers import KEPT
from experiments.benchmarks.problem import HOT, HOT_FLOOR, HOT_NOTE, HOT_RATIO, relative_errors, verify
from experiments.cli import cli
from experiments.errors import UserError
from lightning_modules.backends import ENVIRONMENT_VARIABLE, SELECTIVE_SCAN
from lightning_modules.kernels.implementation import implementation
from tests.benchmarks.tiny import TINY

measured_once = lru_cache(limits)
PHASES = {
    "decode": {"one token"},
    "loader": {"warm"},
    "sampler": {"sampling"},
    "train-step": {"step"},
    "plan": {"plan"},
}


@pytest.fixture(autouse=True)
def limits_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.benchmarks.limits.limits", measured_once)


@pytest.fixture(scope="module")
def process() -> Iterator[OwnProcess]:
    with OwnProcess("a peer") as process:
        yield process


@pytest.fixture
def peers_share_a_process(process: OwnProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """To begin one takes seconds."""
    for module in ("scan", "conv"):
        monkeypatch.setattr(f"experiments.benchmarks.{module}.OwnProcess", lambda name: nullcontext(process))


@pytest.mark.usefixtures("peers_share_a_process")
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_measures_and_writes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.benchmarks.alone.STEADY", -1.0)
    monkeypatch.setattr("experiments.benchmarks.loader.ROUNDS", 2)
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
    if name == "conv" or (name == "scan" and find_spec("mambapy")):  # peers: in this process and in one of their own
        contenders = {row.contender for row in bench.rows}
        kept = {contender.removesuffix(KEPT) for contender in contenders if contender.endswith(KEPT)}
        assert len(kept) == 1 and kept < contenders
    if name == "train-step":  # of all presets
        assert ran["attention"] and ran["selective_scan"]
    if name not in ("plan", "sampler"):  # of the suite's own contenders at least
        assert all(row.floor_ms and row.over_floor for row in baselines)
    if name in ("scan", "conv", "ssd", "rows", "linear"):
        assert all(row.extra[HOT_FLOOR] == row.extra[HOT] / row.floor_ms > 0 for row in baselines)
        assert all(row.extra[HOT] > 0 and row.extra[HOT_RATIO] > 0 for row in bench.rows) and HOT_NOTE in bench.notes
        assert {row.extra[HOT_RATIO] for row in baselines} == {1}
    if name == "sampler":  # the floor is what was measured in turns with the others
        assert [row.floor_ms for row in bench.rows] == [bench.rows[-1].fastest_ms] * 3 + [None]
    if name == "decode" and not torch.cuda.is_available():  # likewise, unless arithmetic takes longer
        first, *_, reading = bench.rows
        assert reading.contender == "reading alone" and reading.floor_ms is None
        assert first.contender == bench.baseline and first.floor_ms >= 0.999 * reading.fastest_ms
    if name == "loader":
        (row,) = written["rows"]
        assert row["rounds"] == 2 and 0 < row["extra"]["samples/s from opening"] < row["extra"]["samples/s"]
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
    options = TINY[name]
    if name in ("scan", "conv"):
        options = {**options, "backends": ["torch"]}
    else:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, "torch")
    monkeypatch.setattr("experiments.benchmarks.measure.in_turns", lambda *_: pytest.fail("it was timed"))
    with pytest.raises(
        UserError, match=r"^Nothing was timed: .+, gradients: an error of \d\.\de-0\d, where [52]e-0\d is the"
    ):
        run(name, tmp_path, **options)
    assert not (tmp_path / "benchmarks" / name).exists()


def _slightly_wrong(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    def wrong(*inputs: Any, **more: Any) -> tuple[Tensor | None, ...]:
        return tuple(t if t is None else 1.001 * t for t in backward(*inputs, **more))

    return wrong


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("scan", "peer"), ("conv", "F.conv1d"), ("cross-scan", "four copies"), ("layer", "Transformer layer")],
)
def test_a_wrong_peer_is_left_out(name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def errors(*given: Any) -> dict[str, float]:
        return {what: error + what.startswith(wrong) for what, error in relative_errors(*given).items()}

    monkeypatch.setattr("experiments.benchmarks.scan.scans", lambda *_: {"peer": scan._ours("torch")})
    monkeypatch.setattr(f"experiments.benchmarks.{name.replace('-', '_')}.relative_errors", errors)
    bench = function_of(name)(**TINY[name])
    contenders = {row.contender for row in bench.rows}
    assert bench.baseline in contenders and not any(contender.startswith(wrong) for contender in contenders)
    assert [note for note in bench.notes if note.startswith(wrong) and "left out: output: an error of 1.0e+00" in note]


@pytest.mark.parametrize(("name", "last"), [("sampler", 2), ("decode", 8)])
def test_all_is_checked_before_anything_is_timed(name: str, last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two batch sizes; decode: of two presets, each also eagerly."""
    checked: list[dict[str, float]] = []

    def last_is_wrong(bench: Bench, errors: dict[str, float], tolerances: dict[str, float]) -> None:
        checked.append(errors)
        verify(bench, {what: error + (len(checked) == last) for what, error in errors.items()}, tolerances)

    monkeypatch.setattr(f"experiments.benchmarks.{name}.verify", last_is_wrong)
    monkeypatch.setattr(f"experiments.benchmarks.{name}.interleave", lambda *_, **__: pytest.fail("it was timed"))
    with pytest.raises(UserError, match="Nothing was timed"):
        function_of(name)(**{**TINY[name], "batches": [1, 2]})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("scan", "torch", "ABLATE_KERNELS=torch chooses nothing in this benchmark.*name them with backends=cpp,torch"),
        ("conv", "bogus", "ABLATE_KERNELS='bogus' is no back end"),
        ("layer", "bogus", "ABLATE_KERNELS='bogus' is no back end"),
    ],
)
def test_back_ends_that_cannot_be_forced_are_refused(
    name: str, value: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, value)
    with pytest.raises(UserError, match=said):
        run(name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("presets", "overrides", "said"),
    [
        (["maskmamba/demo"], {"trainer.precision": "bf16"}, "measures every precision that the device has"),
        (["maskmamba/demo"], {"trainer.batch_size": "8"}, "trainer.batch_size changes nothing.*batch= is"),
        (["maskmamba/demo"], {"benchmark.batch_size": "8"}, "benchmark.batch_size changes nothing"),
        (["maskmamba/demo"], {"runtime.kernels": "torch"}, "ABLATE_KERNELS names back ends"),
        (["maskmamba/demo", "tokenizer/emoji"], {}, "trains generators, and tokenizer/emoji trains a tokenizer"),
    ],
)
def test_what_no_training_step_reads_is_refused(
    presets: list[str], overrides: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.benchmarks.train_step.machine", lambda *_: pytest.fail("the machine was measured"))
    with pytest.raises(UserError, match=said):
        function_of("train-step")(presets=presets, overrides=overrides)


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


def test_unknown_names_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'scan'"):
        run("scann", tmp_path)
    with pytest.raises(UserError, match="no option 'shape'"):
        run("scan", tmp_path, shape=1)
    assert not list(tmp_path.iterdir())


def test_a_sampler_of_captions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes captions; name a class-conditional preset"):
        run("sampler", tmp_path, preset="maskmamba/text-demo")
    with pytest.raises(UserError, match="samples masked generators, and aim/demo is autoregressive"):
        run("sampler", tmp_path, preset="aim/demo")


def test_the_list_of_benchmarks_imports_no_torch() -> None:
    code = "import sys; from experiments.cli import cli; cli(['bench'], standalone_mode=False)"
    code += "; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *listed, way_out, imported = out.stdout.splitlines()
    assert imported == "False" and way_out == "ablate bench NAME --options lists the options of one."
    assert [line.split()[0] for line in listed] == sorted(BENCHMARKS)
    assert all(re.fullmatch(r"\S+ +[a-z].+\.", line) for line in listed), "each says what it measures"


def test_options_of_a_benchmark_are_listed() -> None:
    listed = CliRunner().invoke(cli, ["bench", "conv", "--options"])
    assert listed.exit_code == 0
    options, _, meaning = listed.output.partition("\n\n")
    assert options.splitlines() == [
        "shapes=8x768x257,2x1024x1025,1x512x4097,1x512x1024",
        "seconds=6",
        "backends=cpp,triton,torch",
    ]
    assert "(B, C, L) each" in meaning
