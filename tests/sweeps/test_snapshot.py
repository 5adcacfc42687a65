"""What a snapshot of the code holds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sweeps.snapshot import take_snapshot


@pytest.mark.parametrize("ignored", [True, False])
def test_a_package_inside_another_checkout_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignored: bool
) -> None:
    """Installed into a virtual environment that the other project's git ignores, of which it lists nothing."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "other")], check=True)
    project = tmp_path / "other" / ".venv" / "site-packages"
    (project / "sweeps" / "__pycache__").mkdir(parents=True)
    (project / "sweeps" / "__pycache__" / "a.pyc").touch()
    (project / "sweeps" / "a.py").write_text("")
    (tmp_path / "other" / ".gitignore").write_text(".venv/\n" if ignored else "__pycache__/\n")
    monkeypatch.setattr("sweeps.snapshot.PROJECT", project)
    taken = take_snapshot(tmp_path / "code")
    files = sorted(str(path.relative_to(taken)) for path in taken.rglob("*") if path.is_file())
    assert files == ["code_version.json", "sweeps/a.py"]
