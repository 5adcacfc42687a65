"""How the runs that there are, or are not trained yet, are named."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from experiments.config import load_config
from experiments.identity import run_id
from experiments.presets import PRESETS
from experiments.runs import run_records, run_table
from experiments.store import RunStore
from tests.experiments.conftest import only_run


def test_list_runs_says_what_each_was_made_with(ablate, trained: Path, tmp_path: Path) -> None:
    code, out, _ = ablate("list", "--runs", "--json", "--root", trained)
    (record,) = json.loads(out)
    assert code == 0 and (record["run"], record["state"]) == (only_run(trained), "done")
    assert record["step"] == record["max_steps"] and "generator.width=16" in record["overrides"]
    assert {"val/loss"} <= record["metrics"].keys()
    code, out, _ = ablate("list", "--runs", "--root", trained)
    assert code == 0 and only_run(trained) in out and "done" in out
    assert "ablate train" in ablate("list", "--runs", "--root", tmp_path)[1]
    config = load_config("maskmamba/demo", {"generator.depth": 2, "runtime.root": str(tmp_path)})
    RunStore(tmp_path).prepare(config)  # by a sweep, which keeps no words
    (record,) = json.loads(ablate("list", "--runs", "--json", "--root", tmp_path)[1])
    assert (record["preset"], record["overrides"]) == ("maskmamba/demo", ["generator.depth=2"])
    RunStore(tmp_path).prepare(load_config("maskmamba/demo", ["data.styles=[noto]"]), ["data.styles=[noto]"])
    assert "data.styles=[noto]" in ablate("list", "--runs", "--root", tmp_path)[1]


def test_list_runs_shows_the_newest_evaluation_and_names_it(
    ablate, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever hash comes last: a value of one evaluation never stands beside one of another."""
    shutil.copytree(trained / "runs" / only_run(trained), tmp_path / "runs" / only_run(trained))
    run = RunStore(tmp_path).find(only_run(trained))
    shutil.rmtree(run.folder / "evaluations", ignore_errors=True)
    for age, seed in enumerate((1, 2, 3)):
        words = [f"evaluation.seed={seed}", f"sampler.guidance={seed}"]
        config = load_config(str(run.config_path), words)
        evaluation = run.prepare_evaluation(config)
        evaluation.result_path.write_text(json.dumps({"metrics": {"fd_efflite0": seed * 100.0, f"only_{seed}": 1.0}}))
        os.utime(evaluation.result_path, (1000 - age,) * 2)  # the first is the newest
    (record,) = json.loads(ablate("list", "--runs", "--json", "--root", tmp_path)[1])
    assert record["metrics"]["fd_efflite0"] == 100 and "only_1" in record["metrics"]
    assert not {"only_2", "only_3"} & record["metrics"].keys() and "val/loss" in record["metrics"]
    assert record["evaluations"] == 3
    reads: list[Path] = []
    read_text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *args, **more: reads.append(path) or read_text(path, **more))
    run_records(tmp_path)
    ours = Counter(path.name for path in reads if run.folder in path.parents)
    assert (ours["config.yaml"], ours["status.json"], ours["result.json"]) == (2, 1, 5), "two of the training's result"
    assert sorted(record["evaluated_with"]) == ["evaluation.seed=1", "sampler.guidance=1.0"]
    narrow = Console(width=80, file=io.StringIO())
    narrow.print(run_table([record]))
    assert {run.id, "done", f"{record['step']}/{record['max_steps']}", "100"} <= set(narrow.file.getvalue().split())
    shown = " ".join(ablate("list", "--runs", "--root", tmp_path)[1].split())
    assert "newest evaluation:" in shown and "evaluation.seed=1" in shown


@pytest.mark.parametrize("words", [["generator.depth=2", "data.styles=[noto]"], []], ids=["typed", "by a sweep"])
def test_what_is_not_trained_yet_is_named_with_its_own_words(
    ablate, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preset alone would be another run."""
    monkeypatch.setenv("ABLATE_ROOT", str(tmp_path / "usual"))
    config = load_config("maskmamba/demo", {"generator.depth": 2, "data.styles": ["noto"]})
    for root, end in ((tmp_path / "usual", []), (tmp_path / "other", ["--root", str(tmp_path / "other")])):
        run = RunStore(root).prepare(config, words)
        run.status_path.write_text('{"state": "running", "step": 20, "max_steps": 60}')
        for command in (
            ("sample", run.id, "--root", root),
            ("evaluate", run.id, "--root", root),
            ("sample", run.id, "--root", root, "--export", "npz", tmp_path / "x"),
            ("train", "maskmamba/demo", f"trainer.init_from={run.id}", "--root", root),
        ):
            code, _, err = ablate(*command)
            assert code == 2 and "is not trained yet (step 20 of 60, interrupted); train it first: " in err
            asked = shlex.split(err.partition("ablate train ")[2])
            again = load_config(asked[0], [word for word in asked[1:] if "=" in word])
            assert run_id(again) == run.id and asked[3:] == end, err
            assert not words or asked[1:3] == words
        assert [path.name for path in (root / "runs").iterdir()] == [run.id]


def test_damaged_words_of_a_run_hide_no_other(ablate, tmp_path: Path) -> None:
    for seed in (0, 1):
        run = RunStore(tmp_path).prepare(load_config("maskmamba/demo", {"seed": seed, "runtime.root": str(tmp_path)}))
        (run.folder / "overrides.txt").write_bytes(b"\xff")
    code, out, _ = ablate("list", "--runs", "--root", tmp_path)
    assert code == 0 and out.count("missing") == 2


def test_a_run_that_its_preset_does_not_give_any_more_is_named_by_its_configuration(
    ablate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(f"base: {PRESETS / 'maskmamba' / 'demo.yaml'}\nseed: 5\n")
    run = RunStore(tmp_path).prepare(load_config(str(preset), {"runtime.root": str(tmp_path)}))
    preset.unlink()
    code, _, err = ablate("sample", run.id, "--root", tmp_path)
    assert code == 2 and f"(missing); train it first: ablate train {run.config_path} --root {tmp_path}" in err
    monkeypatch.setenv("ABLATE_ROOT", str(tmp_path))  # no matter: the configuration names the folder of then
    again = shlex.split(ablate("sample", run.id)[2].partition("train it first: ")[2])
    assert again == ["ablate", "train", str(run.config_path), "--root", str(tmp_path)]
    assert run_id(load_config(str(run.config_path))) == run.id
