"""The `ablate` command on one run: help, errors and exit codes, evaluate, sample, doctor."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from experiments import cli as cli_module
from experiments import provenance
from experiments.callbacks import Stopped
from experiments.cli import COMMANDS, HELP
from experiments.config import load_config
from experiments.errors import UserError
from experiments.identity import run_id
from experiments.presets import PRESETS
from experiments.runs import run_table
from experiments.sample_grid import _label
from experiments.store import RunStore
from lightning_modules.metrics.pixels import PIXEL_MEASURES
from tests.experiments.conftest import TINY

DRAWN = ["sampler.steps=2", "runtime.threads=1"]
QUICK = [*DRAWN, "evaluation.num_samples=36"]


@pytest.fixture(scope="module")
def trained(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of this module's own with one finished run."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(undisturbed, root, dirs_exist_ok=True)
    return root


def _id(root: Path) -> str:
    (folder,) = (root / "runs").iterdir()
    return folder.name


def test_help_names_every_command(ablate) -> None:
    assert COMMANDS.keys() == HELP.keys()
    code, out, _ = ablate("--help")
    assert code == 0 and all(name in out for name in COMMANDS if name != "execute")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(ablate, name: str) -> None:
    code, out, _ = ablate(name, "--help")
    assert code == 0 and f"ablate {name}" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tarin"], "Did you mean 'train'?"),
        (["train", "maskmamba/dmeo"], "Did you mean 'maskmamba/demo'?"),
        (["train", "maskmamba/demo", "optim.learning=1"], "optim"),
        (["train", "maskmamba/demo", "benchmark.name=layer"], "ablate bench NAME"),
        (["train", "maskmamba/demo", "imported=abc"], "ablate import-checkpoint KIND FILE"),
        (["train", "maskmamba/demo", "search.space=[{key: sampler.steps, low: 1, high: 4}]"], "ablate run FILE"),
        (["train", "maskmamba/demo", "trainer.val_every=10"], "It is 'runtime.val_every'."),
        (["run", "maskmamba-hybrid-scheme"], "Did you mean 'maskmamba-hybrid-schemes'?"),
        (["run", "maskmamba-hybrid-schemes", "--scale", "huge"], "demo"),
        (["evaluate", "nothing"], "nothing"),
        (["bench", "scam"], "Did you mean 'scan'?"),
        (["explain", "maskmamba-backbones", "backbone=nope"], "nope"),
    ],
)
def test_wrong_requests_exit_with_two(ablate, tmp_path: Path, words: list[str], said: str) -> None:
    root = ["--root", str(tmp_path)] if words[0] in ("run", "evaluate", "explain") else []
    code, _, err = ablate(*words, *root)
    assert code == 2 and said in err and "Traceback" not in err
    assert not (tmp_path / "runs").exists() and not (tmp_path / "sweeps").exists()


@pytest.mark.parametrize("words", [["train", "maskmamba/demo"], ["run", "maskmamba-hybrid-schemes"], ["list"]])
def test_a_root_that_is_in_a_file_is_refused_with_the_way_out(ablate, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "x"):
        code, _, err = ablate(*words, "--root", root)
        assert code == 2 and f"cannot be {root}: {tmp_path / 'file'} is a file." in err and "--root DIR" in err


def test_evaluate_measures_once(ablate, trained: Path) -> None:
    code, out, err = ablate("evaluate", _id(trained), *QUICK, "--root", trained)
    assert code == 0, err
    for shown in (r"^KID-EffLite0 \(x1000\) +\d+\.\d ", r"^Precision-EffLite0 \(%\) +\d+\.\d "):
        assert re.search(shown, out, re.MULTILINE), "as tables and ablate compare print it"
    (folder,) = (trained / "runs" / _id(trained) / "evaluations").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert {"fd_efflite0", "kid_efflite0", "memorisation_rate", "seconds_per_image"} <= result["metrics"].keys()
    assert not re.search(r"\bfid\b", json.dumps(result), re.IGNORECASE)
    assert result["protocol"]["num_samples"] == 36 and result["protocol"]["sampler"]["steps"] == 2
    with np.load(folder / "samples.npz") as samples:
        assert samples["arr_0"].shape == (36, 32, 32, 3) and np.bincount(samples["labels"]).tolist() == [4] * 9
    before = (folder / "result.json").stat().st_mtime_ns
    assert ablate("evaluate", _id(trained), *QUICK, "--root", trained)[0] == 0
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_evaluate_again_measures_the_samples_that_are_there(ablate, trained: Path, monkeypatch) -> None:
    words = ("evaluate", _id(trained), *QUICK, "--root", trained)
    code, _, err = ablate(*words, "evaluation.seed=3", "--again")
    assert code == 2 and "no finished evaluation" in err
    assert ablate(*words)[0] == 0
    code, _, err = ablate(*words, "evaluation.seed=3", "--again")
    assert code == 2 and err.rstrip().endswith("There are samples of: evaluation.seed=0."), err
    (path,) = (p for p in (trained / "runs" / _id(trained) / "evaluations").glob("*/result.json"))
    before = json.loads(path.read_text())
    monkeypatch.setitem(PIXEL_MEASURES, "brightness", lambda samples, real: float(samples.mean()))
    code, out, err = ablate(*words, "--again")
    after = json.loads(path.read_text())
    assert code == 0 and re.search(r"^brightness +\d", out, re.MULTILINE), err
    brightness = after["metrics"].pop("brightness"), after["protocol"]["floor"].pop("brightness")
    assert 0 < brightness[0] < 256 and 0 < brightness[1] < 256
    assert after.pop("measured_again")["git_commit"] == before["provenance"]["git_commit"]
    assert after == before
    own = brightness[0]  # of the samples, not of the real images in their place
    monkeypatch.setitem(PIXEL_MEASURES, "brightness", lambda x, real: math.nan if float(x.mean()) == own else 1.0)
    code, _, err = ablate(*words, "--again")
    assert code == 0, err
    lost = json.loads(path.read_text())
    assert lost["not_finite"] == ["brightness"] and "brightness" not in lost["metrics"]
    samples = path.with_name("samples.npz")
    whole = samples.read_bytes()
    for damaged in (b"", b"PK\x03\x04", whole[: len(whole) // 2], whole[:200] + bytes(400) + whole[600:]):
        samples.write_bytes(damaged)
        code, _, err = ablate(*words, "--again")
        assert code == 2 and f"Cannot read {samples}" in err and "leave --again out" in err, err
    samples.write_bytes(whole)


def test_evaluate_again_takes_the_newest_evaluation_and_names_others_as_they_are_typed(ablate, trained, tmp_path):
    run, file = RunStore(trained).find(_id(trained)), tmp_path / "reference.npz"
    for i in range(12):
        (tmp_path / "train" / "one").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (20 * i, 99, 255 - 20 * i)).save(tmp_path / "train" / "one" / f"{i}.png")
    made = ("reference", "folder", "--source", tmp_path, "--split", "train", "--size", 32, "--workers", 0)
    assert ablate(*made, "--out", file)[0] == 0
    reference = ["evaluation.num_samples=9", f"evaluation.reference={file}"]
    for words in (QUICK, ["sampler.steps=2", "runtime.threads=1", *reference]):
        assert ablate("evaluate", run.id, *words, "--root", trained)[0] == 0
    newest = run.newest_evaluation()
    code, out, err = ablate("evaluate", run.id, "--again", "--root", trained)
    assert code == 0 and f"In {newest.folder}" in out and "measured_again" in newest.result(), err
    code, _, err = ablate("evaluate", run.id, "evaluation.seed=3", "--again", "--root", trained)
    named = f"evaluation.num_samples=9 evaluation.reference={file} evaluation.seed=0"
    assert code == 2 and "fingerprint" not in err
    given = [shlex.split(one) for one in err.rpartition("There are samples of: ")[2].rstrip(".\n").split("; ")]
    assert sorted(named.split()) in [sorted(words) for words in given], err
    for words in given:  # as printed, they find their samples
        assert ablate("evaluate", run.id, *words, "--again", "--root", trained)[0] == 0


def test_a_wrong_class_names_a_few_that_there_are() -> None:
    names = tuple(f"n{i:08d}" for i in range(1000))
    assert _label("n00000007", names) == _label("7", names) == 7
    assert _label("cat", ("cat", "cattle")) == 0
    assert [_label(word, ("0", "1", "10", "2")) for word in ("10", "2", "3")] == [2, 3, 3], "a name before a number"
    with pytest.raises(UserError, match=r"fits 2 classes.* Classes: 0 red cat, 1 cattle\.$"):
        _label("cat", ("red cat", "cattle", "dog"))
    with pytest.raises(
        UserError, match=r"is none of the 1,000 classes\. .* 11 n00000011, \.\. 999 n00000999\.$"
    ) as error:
        _label("goldfish", names)
    assert len(str(error.value)) < 400


def test_list_runs_shows_the_newest_evaluation_and_names_it(ablate, trained: Path, tmp_path: Path) -> None:
    """Whichever hash comes last: a value of one evaluation never stands beside one of another."""
    shutil.copytree(trained / "runs" / _id(trained), tmp_path / "runs" / _id(trained))
    run = RunStore(tmp_path).find(_id(trained))
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
    assert sorted(record["evaluated_with"]) == ["evaluation.seed=1", "sampler.guidance=1.0"]
    narrow = Console(width=80, file=io.StringIO())
    narrow.print(run_table([record]))
    assert {run.id, "done", f"{record['step']}/{record['max_steps']}", "100"} <= set(narrow.file.getvalue().split())
    shown = " ".join(ablate("list", "--runs", "--root", tmp_path)[1].split())
    assert "newest evaluation:" in shown and "evaluation.seed=1" in shown


def test_list_runs_says_what_each_was_made_with(ablate, trained: Path, tmp_path: Path) -> None:
    code, out, _ = ablate("list", "--runs", "--json", "--root", trained)
    (record,) = json.loads(out)
    assert code == 0 and (record["run"], record["state"]) == (_id(trained), "done")
    assert record["step"] == record["max_steps"] and "generator.width=16" in record["overrides"]
    assert {"val/loss"} <= record["metrics"].keys()
    code, out, _ = ablate("list", "--runs", "--root", trained)
    assert code == 0 and _id(trained) in out and "done" in out
    assert "ablate train" in ablate("list", "--runs", "--root", tmp_path)[1]
    config = load_config("maskmamba/demo", {"generator.depth": 2, "runtime.root": str(tmp_path)})
    RunStore(tmp_path).prepare(config)  # by a sweep, which keeps no words
    (record,) = json.loads(ablate("list", "--runs", "--json", "--root", tmp_path)[1])
    assert (record["preset"], record["overrides"]) == ("maskmamba/demo", ["generator.depth=2"])
    RunStore(tmp_path).prepare(load_config("maskmamba/demo", ["data.styles=[noto]"]), ["data.styles=[noto]"])
    assert "data.styles=[noto]" in ablate("list", "--runs", "--root", tmp_path)[1]


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tokenizer.name=llamagen_vq",), "tokenizer.weights=PATH"),
        (("data.name=imagenet", "tokenizer.name=llamagen_vq", "tokenizer.weights="), "no weights of its own"),
        (("data.name=imagenet",), "data.name=imagenet needs data.root=FOLDER, the stores that `ablate tokenize"),
        (("data.name=folder",), "data.name=folder needs data.root=FOLDER"),
        (("data.root=stores",), "data.name is emoji; another takes other keys"),
        (
            ("trainer.batch_size=4000",),
            "needs more training images than the 1715 there are; set trainer.batch_size=1715",
        ),
        (
            ("trainer.batch_size=4000", "trainer.accumulate=2"),
            "than the 1715 there are; set trainer.batch_size=1714 or less and a multiple of 2, or take more images",
        ),
        (("--subset", "54", "trainer.batch_size=64"), "than the 54 there are; set trainer.batch_size=54 or less"),
        (
            ("--subset", "54", "trainer.batch_size=128", "trainer.accumulate=2"),
            "trainer.batch_size=128 needs more training images than the 54 there are; set trainer.batch_size=54 or",
        ),
    ],
)
def test_what_a_training_lacks_is_said_before_it_begins(ablate, tmp_path: Path, words: tuple, said: str) -> None:
    code, _, err = ablate("train", "maskmamba/demo", "--root", tmp_path / "out", *words)
    assert code == 2 and said in err and not (tmp_path / "out").exists()


def test_training_a_finished_run_says_so_and_by_which_code(
    ablate, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "runs" / _id(tmp_path) / "result.json"
    result = json.loads(file.read_text())
    monkeypatch.setattr(provenance, "code_version", lambda: {"git_commit": "b" * 40, "git_diff_sha256": "c" * 64})
    for code, said in (
        ({"git_commit": "b" * 40, "git_diff_sha256": "c" * 64}, "Nothing to do, it is trained already.\n"),
        ({"git_commit": None}, "Nothing to do, it is trained already.\n"),
        ({"git_commit": "b" * 40, "git_diff_sha256": None}, "by the code of commit bbbbbbbbbb, which is not this one."),
    ):
        file.write_text(json.dumps({**result, "provenance": {**result["provenance"], **code}}))
        code, out, err = ablate("train", "maskmamba/demo", *TINY, "--root", tmp_path)
        assert code == 0 and said in out and f"{_id(tmp_path)}: 60 steps" in out, err
    assert f"move {file.parent} away, or name another folder of outputs with --root" in out


def test_evaluate_may_not_change_the_training(ablate, trained: Path) -> None:
    code, _, err = ablate("evaluate", _id(trained), "optim.lr=1", "--root", trained)
    assert code == 2 and "optim.lr" in err and "sampler" in err


def test_sample_is_deterministic_and_takes_a_class(ablate, trained: Path, tmp_path: Path) -> None:
    words = ["sample", _id(trained), *DRAWN, "--root", trained, "--class", "flags", "--count", "3"]
    for name in ("a.png", "b.png"):
        assert ablate(*words, "--out", tmp_path / name)[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert ablate(*words, "--out", tmp_path / "c.png", "--seed", "1")[0] == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()
    code, _, err = ablate("sample", _id(trained), "--root", trained, "--class", "cars", "--out", tmp_path / "d.png")
    assert code == 2 and "cars" in err and "Flags" in err and not (tmp_path / "d.png").exists()


def test_inpainting_draws_the_box_alone(ablate, trained: Path, tmp_path: Path) -> None:
    from datamodules.emoji.data import load_emoji

    Image.fromarray(load_emoji(split="val").images[0]).save(tmp_path / "known.png")
    words = ["sample", _id(trained), *DRAWN, "--root", trained, "--count", "2", "--known-from", tmp_path / "known.png"]
    pictures = []
    for i, box in enumerate(("0,0,8,8", "0,0,32,32")):
        assert ablate(*words, "--mask", box, "--out", tmp_path / f"{i}.png")[0] == 0
        pictures.append(np.asarray(Image.open(tmp_path / f"{i}.png")))
    far = pictures[0][64:128, 64:128].astype(int)  # four times enlarged: the lower right quarter, far from the box
    other = pictures[0][64:128, 64 + 136 : 128 + 136].astype(int)
    assert np.abs(far - other).mean() < 12  # both images keep it (the decoder carries a little across)
    assert np.abs(pictures[0].astype(int) - pictures[1].astype(int)).mean() > 12
    for box, said in (("1,2,3", "LEFT,TOP,RIGHT,BOTTOM"), ("0,0,64,64", "32 x 32")):
        code, _, err = ablate(*words, "--mask", box, "--out", tmp_path / "x.png")
        assert code == 2 and said in err


def test_damaged_weights_are_one_sentence(ablate, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "runs" / _id(tmp_path) / "checkpoints" / "final.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    code, _, err = ablate("evaluate", _id(tmp_path), *QUICK, "sampler.guidance=4", "--root", tmp_path)
    assert code == 2 and str(weights) in err and "damaged" in err


def test_altered_weights_are_one_sentence(ablate, trained: Path, tmp_path: Path) -> None:
    """Eight bytes in the middle leave a file that can be read."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    run = RunStore(tmp_path).run(_id(tmp_path))
    whole = run.final_weights.read_bytes()
    run.final_weights.write_bytes(whole[:-1000] + b"\xff" * 8 + whole[-992:])
    for words in (
        ("sample", run.id, "--out", tmp_path / "x.png"),
        ("evaluate", run.id, "sampler.guidance=4", QUICK[-1]),
    ):
        code, _, err = ablate(*words, *DRAWN, "--root", tmp_path)
        assert code == 2 and f"{run.final_weights} is damaged" in err and f"move {run.folder} away" in err
        assert "ablate train maskmamba/demo " in err and not (tmp_path / "x.png").exists()
    code, _, err = ablate("train", "maskmamba/demo", f"trainer.init_from={run.id}", "--root", tmp_path, *TINY[:6])
    assert code == 2 and f"{run.final_weights} is damaged" in err
    result = json.loads(run.result_path.read_text())
    del result["weights_crc32"]  # as of runs that were made before there were checksums
    run.result_path.write_text(json.dumps(result))
    run.final_weights.write_bytes(whole)
    code, _, err = ablate("sample", run.id, *DRAWN, "--root", tmp_path, "--count", "2", "--out", tmp_path / "x.png")
    assert code == 0 and (tmp_path / "x.png").exists(), err


def test_doctor_lists_kernels_and_embedded_data(ablate, tmp_path: Path) -> None:
    code, out, _ = ablate("doctor", "--json", "--root", tmp_path / "new" / "folder")
    findings = {finding["part"]: finding for finding in json.loads(out)}
    assert code == 0
    assert findings["embedded tokenizer"]["state"] == "ok" and "3796 images" in findings["embedded data"]["found"]
    assert "torch" in findings["kernel selective_scan"]["found"].split(", ")
    assert torch.cuda.is_available() or "triton: " in findings["kernel selective_scan"]["way_out"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FloatingPointError("The loss became nan at step 3; try a lower optim.lr."), "Failed: The loss became nan"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "Failed: OutOfMemoryError: CUDA out"),
    ],
)
def test_a_failed_run_is_one_sentence(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli_module.cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        cli_module.main([])
    assert ended.value.code == 1 and capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_one_sentence(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli_module.cli, "main", stop)
    with pytest.raises(SystemExit) as ended:
        cli_module.main([])
    assert ended.value.code == 130 and capsys.readouterr().err.startswith("Stopped. The same command goes on")


def test_ctrl_c_in_a_training_is_one_sentence(ablate, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)  # as Lightning does

    monkeypatch.setattr("experiments.run.train", stop)
    code, _, err = ablate("train", "maskmamba/demo")
    assert code == 130 and err.strip() == "Stopped. The same command goes on from here."

    def save(*_: object, **__: object) -> None:
        raise Stopped("SIGINT")

    monkeypatch.setattr("experiments.run.train", save)
    code, _, err = ablate("train", "maskmamba/demo")
    assert code == 75 and err.strip() == "Stopped. The same command goes on from here."


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(cli_module.cli, "main", fail)
    with pytest.raises(RuntimeError):
        cli_module.main([])
