"""A run on captions, end to end, and what its images are asked for with."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.emoji.data import load_emoji
from experiments.checks import check_files
from experiments.conditions import choose_captions, evaluation_conditions, grid_conditions
from experiments.config import load_config
from experiments.errors import UserError
from experiments.identity import evaluation_hash, training_hash
from experiments.pictures import captioned_grid, image_grid, kept_grid
from experiments.run_config import RunConfig
from tests.conftest import Ablate
from tests.experiments.conftest import tiny

CAPTIONED = ["data.condition=caption", "generator.condition=text", "text_encoder.name=minilm"]


def config(tmp_path: Path, *words: str) -> RunConfig:
    return load_config("maskmamba/text-demo", [f"runtime.root={tmp_path}", *words])


# --- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["val", "train"])
def test_prompts_are_balanced_and_of_the_split(tmp_path: Path, split: str) -> None:
    run = config(tmp_path, f"evaluation.prompts={split}")
    captions, labels, available = choose_captions(run.data, split, 324)
    data = load_emoji(["twemoji"], split)
    assert available == len(data)
    assert all(count == 36 for count in Counter(labels.tolist()).values()) and labels[:9].tolist() == list(range(9))
    of = dict(zip(data.captions, data.labels, strict=True))
    assert [of[caption] for caption in captions] == labels.tolist()
    for label in range(9):
        mine = [caption for caption, its in zip(captions, labels, strict=True) if its == label]
        uses = Counter(mine).values()
        assert len(uses) == min(36, int((data.labels == label).sum())) and max(uses) - min(uses) <= 1


def test_train_prompts_are_those_that_were_seen(tmp_path: Path) -> None:
    run = config(tmp_path, "data.subset=50")
    assert choose_captions(run.data, "train", 9)[2] == 50


def test_fewer_images_are_the_first_of_more(tmp_path: Path) -> None:
    run = config(tmp_path)
    few = replace(run, evaluation=replace(run.evaluation, num_samples=20))
    assert evaluation_conditions(run).captions[:20] == evaluation_conditions(few).captions


def test_a_batch_holds_the_features_of_its_captions(tmp_path: Path) -> None:
    conditions = evaluation_conditions(config(tmp_path))
    both = conditions.batch(np.array([3, 200]), torch.device("cpu"))
    assert both.features.shape == (2, 16, 128) and both.pooled.shape == (2, 128)
    for row, i in enumerate((3, 200)):
        alone = conditions.batch(np.array([i]), torch.device("cpu"))
        assert torch.equal(alone.features[0], both.features[row]) and torch.equal(alone.mask[0], both.mask[row])
    again = np.flatnonzero(np.array(conditions.captions) == conditions.captions[0])
    assert len(again) > 1 and torch.equal(*conditions.batch(again[:2], torch.device("cpu")).features)


def test_the_grid_shows_held_out_captions_above_seen_ones(tmp_path: Path) -> None:
    captions = grid_conditions(config(tmp_path)).captions
    heldout, seen = (set(load_emoji(["twemoji"], split).captions) for split in ("val", "train"))
    assert len(captions) == 36 and set(captions[:18]) <= heldout and set(captions[18:]) <= seen


def test_runs_on_classes_are_asked_for_by_class(tmp_path: Path) -> None:
    run = load_config("maskmamba/demo", [f"runtime.root={tmp_path}", "evaluation.num_samples=20"])
    conditions = evaluation_conditions(run)
    assert conditions.batch(np.array([0, 10]), torch.device("cpu")).tolist() == [0, 1] and not conditions.captions


# --- identity and checks ----------------------------------------------------------------------------------------------


def test_the_encoder_is_part_of_the_identity_and_its_place_is_not(tmp_path: Path) -> None:
    t5 = [*CAPTIONED[:2], "text_encoder.name=t5"]
    first, second = (load_config("maskmamba/demo", [*t5, f"text_encoder.model={m}"]) for m in ("a/b", "a/c"))
    assert training_hash(first) != training_hash(second)
    second.text_encoder.fingerprint = first.text_encoder.fingerprint
    assert training_hash(first) == training_hash(second)
    seen = config(tmp_path, "evaluation.prompts=train")
    assert training_hash(seen) == training_hash(config(tmp_path))
    assert evaluation_hash(seen) != evaluation_hash(config(tmp_path))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluation.clip_weights=/nowhere"], "No weights in /nowhere"),
        (["evaluation.dataset=cocoa"], "Did you mean 'coco'"),
        (["evaluation.dataset=coco", "evaluation.dataset_root=/nowhere"], "evaluation.dataset_root=FOLDER"),
        (["text_encoder.text_tokens=0"], "must be at least 1"),
        (["generator.text_tokens=5"], "does not fit the text_encoder"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        config(tmp_path, *words)


def test_what_needs_captions_is_refused_on_classes() -> None:
    with pytest.raises(UserError, match=r"evaluation\.dataset needs a run on captions"):
        load_config("maskmamba/demo", ["evaluation.dataset=coco"])


def test_another_data_set_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs evaluation.dataset_root=FOLDER with the store val/"):
        evaluation_conditions(config(tmp_path, "evaluation.dataset=coco"))


def test_what_an_evaluation_lacks_is_said_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"text_encoder\.name=t5 needs text_encoder\.model=FOLDER"):
        check_files(config(tmp_path, "text_encoder.name=t5"))
    lacking = config(tmp_path, "evaluation.dataset=coco")
    check_files(lacking)  # of a training alone
    with pytest.raises(UserError, match=r"evaluation\.dataset_root=FOLDER .* takes the captions of emoji"):
        check_files(lacking, evaluated=True)
    lacking.evaluation.dataset_root = str(tmp_path)
    lacking.evaluation.reference = str(tmp_path / "emoji.npz")  # of the run's own data
    with pytest.raises(UserError, match=r"evaluation\.dataset=coco needs evaluation\.dataset_reference=FILE"):
        check_files(lacking, evaluated=True)
    lacking.evaluation.dataset_reference = str(tmp_path / "coco.npz")
    np.savez(tmp_path / "coco.npz", arr_0=np.zeros((4, 32, 32, 3), np.uint8))
    check_files(lacking, evaluated=True)
    np.savez(tmp_path / "coco.npz", arr_0=np.zeros((4, 64, 64, 3), np.uint8))
    with pytest.raises(UserError, match=r"of 32 x 32 pixels, the reference coco\.npz of 64 x 64 .*--size 32"):
        check_files(lacking, evaluated=True)
    np.savez(tmp_path / "coco.npz", arr_0=np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(UserError, match=r"keeps 3 of its images, too few .*--keep N"):
        check_files(lacking, evaluated=True)
    (tmp_path / "coco.npz").write_text("notes")
    with pytest.raises(UserError, match="damaged or no npz file"):
        check_files(lacking, evaluated=True)
    check_files(config(tmp_path), evaluated=True)
    few = config(tmp_path, "evaluation.num_samples=3")
    check_files(few)  # of a training alone
    with pytest.raises(UserError, match=r"evaluation\.num_samples=3 must be at least 4"):
        check_files(few, evaluated=True)


def test_another_data_set_is_measured_against_its_own_images(tmp_path: Path) -> None:
    """One request may ask for both, each with its file."""
    own, other = tmp_path / "own.npz", tmp_path / "coco.npz"
    own.write_bytes(b"own")
    other.write_bytes(b"other")
    words = [f"evaluation.reference={own}", f"evaluation.dataset_reference={other}"]
    plain, coco = config(tmp_path, *words), config(tmp_path, *words, "evaluation.dataset=coco")
    assert plain.evaluation.reference_file == str(own) and coco.evaluation.reference_file == str(other)
    alone = config(tmp_path, words[0])
    assert evaluation_hash(plain) == evaluation_hash(alone), "what is not used identifies nothing"
    fingerprints = {c.evaluation.reference_fingerprint for c in (plain, coco)}
    assert len(fingerprints) == 2 and "" not in fingerprints


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_captions_stand_under_their_images() -> None:
    images = np.full((3, 32, 32, 3), 7, dtype=np.uint8)
    grid = captioned_grid(images, ["a", "a very long caption that does not fit into a line " * 3, ""], 3)
    assert grid.shape[1] == 3 * 96 + 2 * 6 and (grid[:96, :96] == 7).all()
    under = [(grid[96:, i * 102 : i * 102 + 96] < 128).sum() for i in range(3)]
    assert under[1] > under[0] > under[2] == 0
    np.testing.assert_array_equal(captioned_grid(images, (), 3, 2), image_grid(images, 3, 2))
    assert kept_grid(np.zeros((2, 32, 32, 3), np.uint8), (), 2).shape == (64, 132, 3)
    assert kept_grid(np.zeros((2, 256, 256, 3), np.uint8), (), 2).shape == (256, 514, 3), "not enlarged"


# --- end to end -------------------------------------------------------------------------------------------------------


def test_train_evaluate_and_draw_a_prompt(
    undisturbed: Path, tmp_path: Path, ablate: Ablate, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed / "cache", tmp_path / "cache")
    words = tiny(*CAPTIONED, "trainer.max_steps=3", "runtime.num_workers=1", f"runtime.root={tmp_path}")
    assert ablate("train", "maskmamba/demo", *words)[0] == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "samples" / "step-000003.png").is_file()

    assert ablate("evaluate", run.name, "evaluation.num_samples=18", "--root", tmp_path)[0] == 0
    (folder,) = (run / "evaluations").iterdir()
    protocol = json.loads((folder / "result.json").read_text())["protocol"]
    assert "183 captions of emoji/val" in protocol["prompts"]
    with np.load(folder / "samples.npz") as file:
        assert len(file["captions"]) == 18 and file["labels"].tolist() == [*range(9), *range(9)]

    out = tmp_path / "out.png"
    prompt = ["--prompt", "red apple, apple"]
    assert ablate("sample", run.name, *prompt, "--count", 2, "--root", tmp_path, "--out", out)[0] == 0
    assert Image.open(out).size[0] == 2 * 128 + 6
    code, _, error = ablate("sample", run.name, "--class", "Flags", "--root", tmp_path, "--out", out)
    assert code == 2 and "use --prompt" in error
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, error = ablate("sample", run.name, "--prompt", "a purple cow", "--root", tmp_path, "--out", out)
    assert code == 2 and "needs the extra text" in error and "Traceback" not in error


def test_prompts_need_a_run_on_captions(undisturbed: Path, tmp_path: Path, ablate: Ablate) -> None:
    (run,) = (undisturbed / "runs").iterdir()
    out = tmp_path / "out.png"
    code, _, error = ablate("sample", run.name, "--prompt", "a cow", "--root", undisturbed, "--out", out)
    assert code == 2 and "use --class" in error
