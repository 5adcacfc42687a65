"""What `ablate sample` and `ablate evaluate` make of a run's place, its devices, its data and their own options."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.online_config import _image_files
from experiments import evaluation as evaluation_module
from experiments import provenance
from experiments.config import load_config
from experiments.identity import evaluation_id, semantic
from experiments.remeasure import chosen_evaluation
from experiments.run_config import RunConfig
from experiments.store import Evaluation, Run, RunStore
from tests.experiments.configs import finished, tiny_preset


def small(root: Path, **more: object) -> RunConfig:
    values = {"generator.width": 16, "generator.depth": 2, "generator.heads": 2, "runtime.root": str(root)}
    values |= {"sampler.steps": 1, "runtime.threads": 1, **{key.replace("__", "."): v for key, v in more.items()}}
    return load_config("maskmamba/demo", values)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunConfig, Run]]:
    """What evaluations were asked for; none is carried out."""
    asked: list[tuple[RunConfig, Run]] = []

    def evaluate(config: RunConfig, run: Run, wait: bool = False) -> Evaluation:
        asked.append((config, run))
        return run.evaluation(evaluation_id(config))

    monkeypatch.setattr(evaluation_module, "evaluate", evaluate)
    return asked


def test_an_evaluation_takes_any_number_of_devices_of_one_machine(
    ablate, asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch of the training is no matter to it, nor how many machines that had."""
    run = finished(small(tmp_path, trainer__batch_size=8, runtime__devices=4, runtime__num_nodes=2))
    code, _, err = ablate("evaluate", run.id, "runtime.devices=3", "--root", tmp_path)
    assert code == 0, err
    ((config, _),) = asked
    assert (config.runtime.devices, config.runtime.num_nodes) == (3, 1)
    code, _, err = ablate("evaluate", run.id, "runtime.num_nodes=2", "--root", tmp_path)
    assert code == 2 and "runtime.num_nodes is of trainings" in err
    shared = provenance.provenance(config, {}, 0.0, 1, processes=3)
    assert (shared["processes"], shared["strategy"]) == (3, None)
    trained = provenance.provenance(run.config(), {}, 0.0, 1)
    assert (trained["processes"], trained["strategy"]) == (8, "ddp")
    code, _, err = ablate("execute", "--part", "train", _with(run, "devices: 4", "devices: 3"))
    assert code == 2 and "trainer.batch_size=8 must be a multiple of accumulate x devices x nodes = 6" in err


def _with(run: Run, old: str, new: str) -> Path:
    text = run.config_path.read_text()
    assert old in text
    changed = run.folder.parents[1] / "changed.yaml"
    changed.write_text(text.replace(old, new))
    return changed


@pytest.mark.parametrize("place", ["runs", "elsewhere"])
def test_a_run_may_be_named_by_its_folder(
    ablate, asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.delenv("ABLATE_ROOT", raising=False)
    run = finished(small(tmp_path / "root"))
    folder = Path(shutil.move(run.folder, tmp_path / "moved" / place / run.id))
    monkeypatch.chdir(folder)
    code, out, err = ablate("evaluate", ".", "evaluation.num_samples=8")
    assert code == 0, err
    ((config, found),) = asked
    assert found.folder == folder and found.id == run.id
    assert config.root == (tmp_path / "moved" if place == "runs" else Path("outputs"))
    found.prepare_evaluation(config)
    code, out, err = ablate("sample", found.evaluation(evaluation_id(config)).folder)
    assert code == 2 and f"is an evaluation; name its run, {folder}." in err
    code, out, err = ablate("sample", ".", "--shard", "0/1", "evaluation.num_samples=8")
    command = shlex.split(out.partition("measure them with: ")[2])
    where = [run.id, "evaluation.num_samples=8", "--root", str(tmp_path / "moved")]
    assert code == 0 and command == ["ablate", "evaluate", *(where if place == "runs" else [str(folder), where[1]])]


def test_what_a_run_started_from_is_not_missed_where_it_is_measured_again(tmp_path: Path) -> None:
    start = Path(shutil.copy(finished(small(tmp_path)).final_weights, tmp_path / "start.safetensors"))
    run = finished(small(tmp_path, trainer__init_from=str(start)))
    config = run.config()
    config.evaluation.seed = 3
    run.prepare_evaluation(config).result_path.write_text(json.dumps({"metrics": {}}))
    start.unlink()
    assert chosen_evaluation(run.config(), run) == config


def test_an_evaluation_that_other_code_made_says_so(
    ablate, asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(small(tmp_path))
    evaluation = run.prepare_evaluation(run.config())
    monkeypatch.setattr(provenance, "code_version", lambda: {"git_commit": "b" * 40})
    nothing = "Nothing to do, it is sampled and measured already"
    for commit, said in (("b", f"{nothing}.\n"), ("c", f"{nothing}, but by the code of commit ccc")):
        evaluation.result_path.write_text(json.dumps({"metrics": {}, "provenance": {"git_commit": commit * 40}}))
        code, out, err = ablate("evaluate", run.id, "--root", tmp_path)
        assert code == 0 and said in out, err
    assert f"move {evaluation.folder} away." in out
    assert "Nothing to do" not in ablate("evaluate", run.id, "--root", tmp_path, "evaluation.seed=1")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--shard", "0/2", "--count", 5000), "--count needs --export; without it take evaluation.num_samples=N"),
        (("--shard", "0/2", "--seed", 3), "--seed needs --export; without it take evaluation.seed=N"),
        (("--shard", "0/2", "--out", "y.png"), "--out is of single images"),
        (("--export", "png", "x", "--out", "y.png"), "--out is of a single picture"),
        (("--export", "png", "x", "evaluation.num_samples=16"), "take --count N"),
        (("evaluation.seed=77",), "evaluation.seed changes nothing in what `ablate sample` draws here; take --seed N"),
        (("evaluation.reference=x.npz",), "`ablate evaluate` takes it"),
        (("evaluation.prompts=train",), "evaluation.prompts needs --count N"),
        (("evaluation.prompts=train", "--count", 2, "--prompt", "a cow"), "evaluation.prompts needs --count N"),
    ],
)
def test_options_that_would_change_nothing_are_refused(ablate, tmp_path: Path, words: tuple, said: str) -> None:
    run = finished(small(tmp_path))
    code, _, err = ablate("sample", run.id, "--root", tmp_path, *words)
    assert code == 2 and said in err
    assert not run.evaluations()


@pytest.mark.parametrize("key", ["evaluation.dataset_root", "evaluation.dataset_reference"])
def test_where_another_data_set_is_needs_its_name(ablate, asked: list[Any], tmp_path: Path, key: str) -> None:
    run = finished(small(tmp_path))
    code, _, err = ablate("evaluate", run.id, f"{key}=x", "--root", tmp_path)
    assert code == 2 and f"{key} is of another data set's captions; name that too" in err and not asked


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_a_tokenizer_is_not_sampled_from(ablate, tmp_path: Path, command: str) -> None:
    run = RunStore(tmp_path).prepare(load_config("tokenizer/emoji", {"runtime.root": str(tmp_path)}))
    before = sorted(tmp_path.rglob("*"))
    code, _, err = ablate(command, run.id, "--root", tmp_path)
    assert code == 2 and f"Run {run.id} trains a tokenizer, of which nothing is sampled." in err
    assert f"tokenizer.name=emoji_vq tokenizer.weights={run.final_weights}" in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["folder", "imagenet"])
def test_images_that_are_gone_are_not_missed_in_sampling_classes(ablate, tmp_path: Path, kind: str) -> None:
    images = tmp_path / "images"
    for split in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            (images / split / name).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(np.full((40, 40, 3), i, np.uint8)).save(images / split / name / f"{i}.png")
    run = finished(small(tmp_path, data__name=f"{kind}_online", data__source=str(images), trainer__batch_size=2))
    assert "data.class_folders" not in semantic(run.config()), "runs of before there was this key stay what they are"
    words = ("sample", run.id, "--count", 2, "--root", tmp_path, "--out", tmp_path / "x.png", "--class")
    shutil.move(images, tmp_path / "away")
    _image_files.cache_clear()  # as a process that begins now
    for name in (1, "n01443537")[: 2 if kind == "folder" else 1]:  # a synset's name is in the folder only
        code, _, err = ablate(*words, name)
        assert code == 0, err
    (tmp_path / "away" / "val" / "n01440764" / "0.png").unlink()
    shutil.move(tmp_path / "away", images)
    _image_files.cache_clear()
    code, _, err = ablate(*words, 1)
    assert code == 2 and f"data.source={images} is not what" in err


def test_the_command_that_trains_a_run_names_its_root_where_the_preset_names_another(
    ablate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = tiny_preset(tmp_path, "mine")  # into out/
    monkeypatch.setenv("ABLATE_ROOT", str(tmp_path / "other"))
    for root, end in ((tmp_path / "out", []), (tmp_path / "other", ["--root", str(tmp_path / "other")])):
        run = RunStore(root).prepare(load_config(preset, {"runtime.root": str(root)}))
        code, _, err = ablate("sample", run.id, "--root", root)
        assert code == 2 and shlex.split(err.partition("train it first: ")[2]) == ["ablate", "train", preset, *end]
