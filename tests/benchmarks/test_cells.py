"""Benchmarks as cells: every kind is measured, in turns, once; a contender that fails leaves the others alone."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.benchmarks import contest
from experiments.benchmarks.alone import alone
from experiments.benchmarks.cells.base import Phase
from experiments.benchmarks.cells.layer import build_layer
from experiments.benchmarks.config import LayerBenchmarkConfig
from experiments.benchmarks.contest import measure
from experiments.benchmarks.measure import FEWEST_ROUNDS, median_interval
from experiments.config import load_config, preset_names
from experiments.errors import CellError, UserError
from experiments.identity import benchmark_id, run_id
from experiments.run_config import RunConfig
from experiments.store import RunStore
from lightning_modules.metrics.config import METRICS

QUICK = {"benchmark.seconds": 0, "runtime.device": "cpu"}
LAYER = {"benchmark.name": "layer", "benchmark.width": 32, "benchmark.heads": 2, "benchmark.length": 16, **QUICK}
DEMOS = [name for name in preset_names() if name.endswith("/demo")]
KINDS = ["generation", "training"]
"""Those that take any generator."""


def config(root: Path, preset: str = "maskmamba/demo", **overrides: Any) -> RunConfig:
    return load_config(preset, {"runtime.root": str(root), **overrides})


@pytest.mark.parametrize("preset", DEMOS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_system_is_timed(kind: str, preset: str, tmp_path: Path) -> None:
    made = config(tmp_path, preset, **{"benchmark.name": kind, "benchmark.batch_size": 2, **QUICK})
    measure([made])
    result = RunStore(tmp_path).benchmark(benchmark_id(made)).result()
    assert result and result["parameters"] > 0
    timed = {"generation": ("seconds_per_image", "images_per_s"), "training": ("step_seconds", "samples_per_s")}[kind]
    seconds, rate = (result["metrics"][name] for name in timed)
    assert rate == pytest.approx((1 if kind == "generation" else 2) / seconds)
    names = {name.removesuffix("_low").removesuffix("_high") for name in result["metrics"]}
    assert names <= METRICS.keys() and "peak_memory_bytes" in names
    assert result["protocol"]["threads"] == torch.get_num_threads() and result["provenance"]["hardware"]["cpu"]


def test_contenders_take_turns_and_are_measured_once(tmp_path: Path) -> None:
    pair = [config(tmp_path, **{**LAYER, "benchmark.layer": name}) for name in ("transformer", "bi_mamba_v2")]
    measure(pair)
    works = [RunStore(tmp_path).benchmark(benchmark_id(item)) for item in pair]
    results = [work.result() for work in works]
    assert results[0] and results[1] and results[0]["protocol"]["in_turns_with"] == [works[1].id]
    assert results[0]["seconds"].keys() == {"forward", "training"}
    assert {len(values) for result in results for values in result["seconds"].values()} == {FEWEST_ROUNDS}
    assert results[1]["provenance"]["backends"]["selective_scan"], "the kernel that ran is named"
    before = works[0].result_path.stat().st_mtime_ns
    measure(pair)
    assert works[0].result_path.stat().st_mtime_ns == before and works[0].attempts == 1


def test_what_the_first_contender_sets_up_is_not_counted_as_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library: list[bytearray] = []

    class Cell:
        parameters = 0

        def __init__(self, config: RunConfig, device: torch.device) -> None:
            if not library:
                library.append(bytearray(b"x" * 2**26))  # as an import does
            self.phases = {"forward": Phase(lambda: torch.ones(2**20).sum(), "forward_seconds", "peak_memory_bytes")}

    monkeypatch.setattr(contest.BENCHMARK_CELLS, "target", lambda name: Cell)
    made = config(tmp_path, **LAYER)
    measure([made])
    result = RunStore(tmp_path).benchmark(benchmark_id(made)).result()
    assert result and result["metrics"].get("peak_memory_bytes", 0) < 2**25


def test_a_failing_contender_leaves_the_others_alone(tmp_path: Path) -> None:
    bad, good = (config(tmp_path, **{**LAYER, "benchmark.attention": name}) for name in ("cudnn", "math"))
    with pytest.raises(CellError, match=benchmark_id(bad)):
        measure([bad, good])
    store = RunStore(tmp_path)
    assert store.benchmark(benchmark_id(good)).is_done()
    status = store.benchmark(benchmark_id(bad)).inspect()
    assert status.state == "failed" and "kernel" in status.reason


def test_every_contender_runs_on_the_kernels_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABLATE_KERNELS", raising=False)
    mamba = {**LAYER, "benchmark.layer": "bi_mamba_v2"}
    pair = [config(tmp_path, **mamba, **{"runtime.kernels": name}) for name in ("torch", "reference")]
    measure(pair)
    results = [RunStore(tmp_path).benchmark(benchmark_id(item)).result() for item in pair]
    ran = [result["provenance"]["backends"]["selective_scan"] for result in results if result]
    assert ran == ["torch", "reference"] and "ABLATE_KERNELS" not in os.environ


def test_one_that_fails_while_it_is_timed_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that has no memory beside all the others."""
    bad, good = (config(tmp_path, **{**LAYER, "benchmark.layer": name}) for name in ("bi_mamba", "transformer"))
    built = contest._build

    def build(contender: contest.Contender) -> None:
        built(contender)
        if contender.config is bad and contender.cell:

            def fail() -> None:
                raise MemoryError("no room")

            contender.cell.phases["training"] = replace(contender.cell.phases["training"], call=fail)

    monkeypatch.setattr(contest, "_build", build)
    with pytest.raises(CellError, match="no room"):
        measure([bad, good])
    result = RunStore(tmp_path).benchmark(benchmark_id(good)).result()
    assert result and result["seconds"].keys() == {"forward", "training"}


def test_what_one_process_cannot_measure_fairly_is_refused(tmp_path: Path) -> None:
    pair = [config(tmp_path, **LAYER, **{"runtime.threads": threads}) for threads in (1, 2)]
    with pytest.raises(UserError, match=r"give them one runtime\.threads"):
        measure(pair)
    compiled = {**LAYER, "trainer.compile": True}
    pair = [config(tmp_path, **{**compiled, "benchmark.attention": name}) for name in ("math", "flash")]
    with pytest.raises(UserError, match="share compiled graphs"):
        measure(pair)
    token_by_token = {"benchmark.name": "generation", "trainer.compile": True, **QUICK}
    with pytest.raises(CellError, match="changes nothing in generation token by token"):
        measure([config(tmp_path, "aim/demo", **token_by_token)])


def test_identity_is_what_is_timed_and_nothing_else(tmp_path: Path) -> None:
    def of(**more: Any) -> str:
        return benchmark_id(config(tmp_path, **{"benchmark.name": "generation", **more}))

    assert of() == of(**{"trainer.max_steps": 7, "optim.lr": 1, "runtime.threads": 3, "evaluation.num_samples": 5})
    changed = [{"sampler.steps": 3}, {"generator.width": 80}, {"benchmark.batch_size": 2}, {"runtime.kernels": "torch"}]
    assert len({of(), *(of(**change) for change in changed), of(**{"trainer.precision": "fp32"})}) == 6
    layer = config(tmp_path, **LAYER)
    assert benchmark_id(layer) == benchmark_id(config(tmp_path, **{**LAYER, "sampler.steps": 3}))
    assert benchmark_id(layer) != benchmark_id(replace(layer, seed=1)), "a seed is a repetition"
    assert run_id(layer) == run_id(config(tmp_path, **{"benchmark.name": "none"})), "a training knows no benchmark"


def test_forced_back_ends_make_another_result(tmp_path: Path) -> None:
    def named(kernels: str) -> str:
        return benchmark_id(config(tmp_path, **LAYER, **{"runtime.kernels": kernels}))

    assert named("auto") == named("") == named("ssd=auto") != named("torch") != named("cpp")
    assert named("ssd=torch,attention=reference") == named("attention=reference,ssd=torch"), "in any order"
    free, forced = (config(tmp_path, **LAYER, **{"runtime.kernels": kernels}) for kernels in ("auto", "torch"))
    assert run_id(free) == run_id(forced), "of a training they are no part"


@pytest.mark.parametrize("name", ["bi_mamba", "bi_mamba_v2"])
def test_layers_are_matched_in_parameters(name: Any) -> None:
    sizes = [
        sum(p.numel() for p in build_layer(LayerBenchmarkConfig(layer=layer, width=256, match=match)).parameters())
        for layer, match in (("transformer", "width"), (name, "width"), (name, "parameters"))
    ]
    assert sizes[1] < 0.7 * sizes[0] and abs(sizes[2] / sizes[0] - 1) < 0.02


def test_wrong_settings_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="multiple of benchmark.heads"):
        config(tmp_path, **{**LAYER, "benchmark.heads": 5})
    with pytest.raises(UserError, match="Unknown benchmark 'layr'. Did you mean 'layer'"):
        config(tmp_path, **{"benchmark.name": "layr"})


def test_two_measurements_on_one_machine_wait_for_each_other(tmp_path: Path) -> None:
    spans: list[tuple[float, float]] = []

    def hold() -> None:
        with alone(tmp_path):
            begun = time.monotonic()
            time.sleep(0.2)
            spans.append((begun, time.monotonic()))

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = sorted(spans)
    assert first[1] <= second[0]


def test_interval_of_the_median() -> None:
    assert median_interval([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]) == (1.0, 6.0)  # covers with 1 - 2 / 64
    with pytest.raises(ValueError, match="3 values have no 95 % interval"):
        median_interval([3.0, 1.0, 2.0])
    assert median_interval([float(i) for i in range(1, 42)]) == (14.0, 28.0)  # ranks 14 and 28 of 41: sign test
