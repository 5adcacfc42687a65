"""Which code a result says it was made with, and errors of writing."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors import SafetensorError

from experiments import provenance
from experiments.config import load_config
from experiments.errors import UserError
from experiments.failures import classify
from experiments.files import atomic_path
from experiments.provenance import cores


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True).stdout


def committed(folder: Path, ignored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit what is in the folder, in a repository of its own whose version no environment variable tells."""
    (folder / ".gitignore").write_text(f"{ignored}\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "code")
    monkeypatch.delenv("ABLATE_CODE_VERSION", raising=False)


def test_a_command_is_recorded_as_it_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance.sys, "argv", ["/code/experiments/cli.py", "execute", "a b.yaml"])
    assert provenance.provenance(load_config("maskmamba/demo"), {}, 0.0, 1)["command"] == "ablate execute 'a b.yaml'"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_another_projects_checkout_is_not_this_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / folder / "experiments" / "provenance.py" for folder in (".", ".venv/site-packages")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("")
    committed(tmp_path, ".venv/", monkeypatch)
    found = []
    for file in files:
        monkeypatch.setattr(provenance, "__file__", str(file))
        found.append(provenance.code_version.__wrapped__())
    assert found[0] == {
        "git_commit": git(tmp_path, "rev-parse", "HEAD").strip(),
        "git_dirty": False,
        "git_diff_sha256": None,
    }
    assert found[1] == {"git_commit": None, "git_dirty": None, "git_diff_sha256": None}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_new_file_that_is_not_committed_is_part_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixer as docs/extending.md has it; notes, presets and outputs in the checkout are no code."""
    file = tmp_path / "experiments" / "provenance.py"
    file.parent.mkdir()
    file.write_text("")
    committed(tmp_path, "__pycache__/", monkeypatch)
    monkeypatch.setattr(provenance, "__file__", str(file))
    version = provenance.code_version.__wrapped__
    clean = version()
    others = ("notes.md", "outputs/run.py", "experiments/mine.yaml", "experiments/__pycache__/a.py", "reports/page.md")
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert version() == clean and clean["git_dirty"] is False
    mixer = tmp_path / "lightning_modules" / "layers" / "mine.py"
    mixer.parent.mkdir(parents=True)
    digests = []
    for text in ("first", "second", "first"):
        mixer.write_text(text)
        assert version()["git_dirty"] is True
        digests.append(version()["git_diff_sha256"])
    assert digests[0] == digests[2] != digests[1] and None not in digests
    mixer.unlink()
    file.write_text("changed")
    diff = git(tmp_path, "diff", "HEAD").strip()
    assert version()["git_diff_sha256"] == hashlib.sha256(diff.encode()).hexdigest(), "as before there were new files"
    monkeypatch.setattr(provenance, "code_version", version)
    now = {"provenance": version()}
    assert provenance.other_code(now) == "" == provenance.other_code({})
    assert provenance.other_code({"provenance": clean}) == f"commit {clean['git_commit'][:10]}"
    both = f"commits {'a' * 10} and {provenance.code_of(version())}"
    assert provenance.other_code({"provenance": {**version(), "trained_by": [{"git_commit": 40 * "a"}]}}) == both


def test_weights_on_a_full_disk_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "final.safetensors"
    with pytest.raises(UserError, match=f"Cannot write {path}: .*No space left.*runtime.root=DIR") as caught:
        with atomic_path(path):
            raise SafetensorError("I/O error: No space left on device (os error 28)")
    assert classify(caught.value)[0] == "disk"
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_a_containers_quota_bounds_the_cores(tmp_path: Path, files: dict[str, str], most: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert cores(tmp_path) == (most or len(os.sched_getaffinity(0)))
