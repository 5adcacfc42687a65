"""The `ablate` command: help, errors and exit codes, doctor, what a training lacks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import click
import pytest
import torch

from experiments import __version__, provenance
from experiments import cli as cli_module
from experiments.callbacks import Stopped
from experiments.cli import COMMANDS, HELP
from lightning_modules.kernels import onednn
from tests.experiments.conftest import TINY, only_run


def test_help_names_every_command(ablate) -> None:
    assert COMMANDS.keys() == HELP.keys()
    code, out, _ = ablate("--help")
    assert code == 0 and all(name in out for name in COMMANDS if name != "execute")


def test_the_version_is_told_wherever_the_code_runs_from(ablate, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)  # a clone that is not installed
    code, out, _ = ablate("--version")
    assert code == 0 and out == f"ablate, version {__version__}\n"


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
        (["train", "maskmamba/demo", "tokenizer.weights=/proc/self/mem"], "/proc/self/mem: "),  # which opens
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


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_empty_ones(closed: str) -> None:
    command = f'exec "$0" -m experiments.cli cancel maskmamba-backbones {closed}'
    assert subprocess.run(["sh", "-c", command, sys.executable]).returncode == 2


def test_a_tilde_behind_an_equals_sign_is_the_home(ablate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (("list", "--runs", "--root=~/here"), ("train", "maskmamba/demo", "tokenizer.weights=~/here")):
        code, out, err = ablate(*words)
        assert str(tmp_path / "here") in (err if code else out)


def test_words_that_are_no_text_are_refused(ablate) -> None:
    code, _, err = ablate("train", "maskmamba/demo", "tokenizer.weights=\udcff")
    assert code == 2 and "tokenizer.weights=\\udcff' is not UTF-8" in err


@pytest.mark.parametrize("words", [["train", "maskmamba/demo"], ["run", "maskmamba-hybrid-schemes"], ["list"]])
def test_a_root_that_is_in_a_file_is_refused_with_the_way_out(ablate, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "x"):
        code, _, err = ablate(*words, "--root", root)
        assert code == 2 and f"cannot be {root}: {tmp_path / 'file'} is a file." in err and "--root DIR" in err


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
    file = tmp_path / "runs" / only_run(tmp_path) / "result.json"
    result = json.loads(file.read_text())
    monkeypatch.setattr(provenance, "code_version", lambda: {"git_commit": "b" * 40, "git_diff_sha256": "c" * 64})
    for code, said in (
        ({"git_commit": "b" * 40, "git_diff_sha256": "c" * 64}, "Nothing to do, it is trained already.\n"),
        ({"git_commit": None}, "Nothing to do, it is trained already.\n"),
        ({"git_commit": "b" * 40, "git_diff_sha256": None}, "by the code of commit bbbbbbbbbb, which is not this one."),
    ):
        file.write_text(json.dumps({**result, "provenance": {**result["provenance"], **code}}))
        code, out, err = ablate("train", "maskmamba/demo", *TINY, "--root", tmp_path)
        assert code == 0 and said in out and f"{only_run(tmp_path)}: 60 steps" in out, err
    assert f"move {file.parent} away, or name another folder of outputs with --root" in out


@pytest.mark.parametrize("gains", [True, False])
def test_doctor_says_whether_onednn_runs(gains: bool, ablate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "missing", lambda: None)
    monkeypatch.setattr(onednn, "_gains", lambda: gains)
    _, out, _ = ablate("doctor", "--json", "--root", tmp_path)
    found = next(finding for finding in json.loads(out) if finding["part"] == "kernel linear")
    assert (found["found"] == "onednn, torch, reference") == gains
    assert ("onednn: no gain on this processor" in found["way_out"]) == (not gains)


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


def test_a_file_that_ends_too_early_is_no_ctrl_c(ablate, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise EOFError("No data left in file")

    monkeypatch.setattr("experiments.run.train", read)
    with pytest.raises(EOFError, match="No data left"):  # with its traceback, and not "Stopped"
        ablate("train", "maskmamba/demo")


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
