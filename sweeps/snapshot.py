"""A copy of the code as it is at submission, so that editing the checkout changes nothing that is queued."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from experiments.files import atomic_write_json
from experiments.provenance import FOLDERS, code_version, listed_files
from sweeps.cache import PROJECT


def take_snapshot(folder: Path) -> Path:
    """Copy the project's files, uncommitted ones included, to `folder`/<digest of their contents>.

    What is there already is used again. code_version.json in it says which commit and difference the code is.
    """
    files = _project_files()
    digest = hashlib.sha256()
    for name in files:
        digest.update(f"{name}\0".encode() + hashlib.sha256((PROJECT / name).read_bytes()).digest())
    target = folder / digest.hexdigest()[:12]
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".snapshot."))
    try:
        for name in files:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, temporary / name)
        atomic_write_json(temporary / "code_version.json", {**code_version(), "snapshot": target.name})
        temporary.chmod(0o755)
        try:
            os.rename(temporary, target)
        except OSError:
            if not target.is_dir():  # unless someone else has just made the same one
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _project_files() -> list[str]:
    """Relative paths of the code and what it reads: what git knows or would add, or the packages' files, where that is
    nothing: outside a checkout, and in a folder that git ignores."""
    names = listed_files(PROJECT, FOLDERS, "--cached", "--others")
    if not names:
        paths = (path for package in FOLDERS for path in (PROJECT / package).rglob("*") if path.is_file())
        names = sorted(str(path.relative_to(PROJECT)) for path in paths if "__pycache__" not in path.parts)
    return names
