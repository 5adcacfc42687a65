"""One benchmark at a time on a machine, and signs of other work there."""

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments import claims
from experiments.benchmarks import run
from experiments.benchmarks.alone import LATELY_S, alone, signs_of_other_work
from experiments.benchmarks.bench import Bench, Row
from lightning_modules.backends import ENVIRONMENT_VARIABLE


def _instantly(seconds: float = 1.0) -> Bench:
    row = Row("case", "plan", "ours", median_ms=1, fastest_ms=1, spread=0, ratio=1, rounds=3)
    hardware = {"cpu": "a processor", "gpus": [], "git_dirty": False, "git_commit": "", "threads": os.cpu_count()}
    return Bench("plan", "Nothing", baseline="ours", rows=[row], machine=hardware)


def test_a_benchmark_says_what_ran_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sweeps.bench.plan_bench", _instantly)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.25, 0, 0))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "torch")
    bench = run("plan", tmp_path, seconds=2.0)
    assert bench.machine["load_before"] == 1.25 and bench.machine["forced_kernels"] == "torch"
    assert "a load of 1.2 on" in capsys.readouterr().out
    assert bench.command == "ablate bench plan seconds=2"


def test_a_benchmark_waits_for_another_whose_load_is_not_other_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ablate")
    monkeypatch.setattr("sweeps.bench.plan_bench", _instantly)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.25, 0, 0))
    with ThreadPoolExecutor(1) as pool:
        with alone(tmp_path) as load:
            assert load == 1.25
            (heartbeat,) = tmp_path.rglob("heartbeat")
            os.utime(heartbeat, (0, 0))  # its end counts, not its beginning
            waiting = pool.submit(run, "plan", tmp_path)
            while "measures on this machine; waiting" not in caplog.text:
                assert not waiting.done()
                time.sleep(0.02)
        bench = waiting.result(timeout=20)
    assert bench.machine["load_before"] is None and not any("a load of" in note for note in bench.notes)
    long_ago = time.time() - LATELY_S - 1
    os.utime(heartbeat, (long_ago, long_ago))
    with alone(tmp_path) as load:
        assert load == 1.25


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
