"""Where a number comes from: code, configuration, data, hardware, library versions, and the command that made it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments.identity import evaluation_hash, training_hash
from experiments.run_config import RunConfig

PACKAGES = (
    *("ablate", "torch", "triton", "lightning", "torch-fidelity"),
    *("mamba-ssm", "causal-conv1d", "flash-attn"),  # whose kernels run where they are installed
)
FOLDERS = ("experiments", "lightning_modules", "datamodules", "sweeps", "reports")
"""The project's packages."""
SOURCES = tuple(f"{folder}/*{ending}" for folder in FOLDERS for ending in (".py", ".cpp", ".h", ".cu", ".cuh"))
"""git's patterns of the files that are the code. Presets, sweeps and weights are none of it: what they say is in the
identity of a run; nor are notes, reports and other outputs, wherever they lie."""
CODE, PRECISION, PROCESSES = "code version", "precision", "processes"
"""Keys of what `kinds` returns."""


def provenance(
    config: RunConfig, backends: dict[str, str], started_at: float, attempts: int, processes: int | None = None
) -> dict[str, Any]:
    """The record that goes into every result.json.

    Args:
        backends: operation -> back end that really ran.
        started_at: Unix seconds at which this attempt began.
        attempts: how often the work was begun.
        processes: how many shared an evaluation; None = of a training, as its configuration says.
    """
    return {
        **ran_with(config, backends),
        "training_hash": training_hash(config),
        "evaluation_hash": evaluation_hash(config),
        "preset": config.preset,
        "seed": config.seed,
        "data_fingerprint": config.data.fingerprint,
        "tokenizer_fingerprint": config.tokenizer.fingerprint,
        **shared_by(config, processes),
        "started_at": started_at,
        "finished_at": time.time(),
        "attempts": attempts,
        "command": shlex.join([_program(), *sys.argv[1:]]),
    }


def ran_with(config: RunConfig, backends: Mapping[str, str]) -> dict[str, Any]:
    """What the numbers of this process depend on beside its configuration: one record of `makers`."""
    from experiments.process import device_of, precision_of  # with torch, which planning does without

    return {
        **code_version(),
        "precision": precision_of(config, device_of(config)),
        "backends": dict(backends),
        "hardware": hardware(),
        "versions": versions(),
    }


def shared_by(config: RunConfig, evaluating: int | None = None) -> dict[str, Any]:
    """How many processes train together, and what each of them holds; or how many share an evaluation."""
    if evaluating is not None:
        return {"processes": evaluating, "strategy": None}
    processes = config.runtime.processes
    return {"processes": processes, "strategy": config.runtime.strategy if processes > 1 else None}


def makers(origin: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Who made what a result rests on, of its provenance: the attempts whose steps are in the weights ("trained_by"),
    the processes that drew the samples ("sampled_by"), or, where no others are named, who wrote the result."""
    return origin.get("trained_by") or origin.get("sampled_by") or [origin]


def kinds(maker: Mapping[str, Any]) -> dict[str, str | None]:
    """What one of the `makers` ran with: "torch", "hardware", .. -> its value in words; None = not recorded."""
    hardware = maker.get("hardware", {})
    return {
        CODE: code_of(maker),
        PRECISION: maker.get("precision"),
        "torch": maker.get("versions", {}).get("torch"),
        "hardware": ", ".join(dict.fromkeys(hardware.get("gpus") or [hardware.get("cpu") or ""])) or None,
        PROCESSES: str(maker["processes"]) if "processes" in maker else None,
    }


def _program() -> str:
    """What was started, as a person can type it: workers start the command line as a module."""
    name = Path(sys.argv[0]).name
    return "ablate" if name == "cli.py" else name


@lru_cache
def code_version() -> dict[str, Any]:
    """Commit, whether the code differs from it (new files too), and the hash of that difference; nulls outside a git
    checkout.

    A job that runs from a snapshot finds it described in ABLATE_CODE_VERSION (JSON of the same keys).
    """
    if text := os.environ.get("ABLATE_CODE_VERSION"):
        return json.loads(text)
    file = Path(__file__)
    here = file.parent.parent
    # An installed package may lie in an environment inside the checkout of some other project.
    ours = _git(here, "ls-files", "--error-unmatch", str(file.relative_to(here))) is not None
    commit = _git(here, "rev-parse", "HEAD") if ours else None
    if commit is None:
        return {"git_commit": None, "git_dirty": None, "git_diff_sha256": None}
    digest = hashlib.sha256()
    diff = _git(here, "diff", "HEAD", "--", *SOURCES) or ""
    digest.update(diff.encode(errors="surrogateescape"))
    new = listed_files(here, SOURCES, "--others")  # which a diff is silent about
    for name in new:
        digest.update(b"\0" + os.fsencode(name) + b"\0")
        with suppress(OSError):  # one that cannot be read cannot run either
            digest.update(hashlib.sha256((here / name).read_bytes()).digest())
    changed = bool(diff or new)
    return {"git_commit": commit, "git_dirty": changed, "git_diff_sha256": digest.hexdigest() if changed else None}


def listed_files(project: Path, patterns: Iterable[str], *kinds: str) -> list[str]:
    """Relative paths of files that git knows (`--cached`) or would add (`--others`); none outside a checkout."""
    answer = _git(project, "ls-files", "-z", *kinds, "--exclude-standard", "--", *patterns) or ""
    return sorted(name for name in set(answer.split("\0")) if name and (project / name).is_file())


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="surrogateescape", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def code_of(origin: Mapping[str, Any]) -> str | None:
    """The code version in a provenance: its commit, and a digest of changes that were not committed."""
    commit, changed = origin.get("git_commit"), origin.get("git_diff_sha256")
    if not commit:
        return None
    return f"{commit[:10]}{f' with changes {changed[:8]}' if changed else ''}"


def other_code(result: Mapping[str, Any]) -> str:
    """The code that made a result, in words, if it is not this one alone; "" also where one of them is not known."""
    origin, now = result.get("provenance", {}), code_of(code_version())
    made = list(dict.fromkeys(code for maker in (*makers(origin), origin) if (code := code_of(maker))))
    return f"commit{'s' * (len(made) > 1)} {' and '.join(made)}" if now and made not in ([], [now]) else ""


@lru_cache
def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, and GPUs."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": _cpu_name(), "cores": cores(), "gpus": gpus, "host": platform.node()}


def cores(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """CPU cores this process may use: those it may run on, and no more than a container's quota pays for."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for words in ((groups / "cpu.max",), (groups / "cpu/cpu.cfs_quota_us", groups / "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join(path.read_text() for path in words).split()
            return max(1, min(count, math.ceil(int(quota) / int(period)))) if int(quota) > 0 else count
        except (OSError, ValueError):  # another version of control groups, or "max"
            continue
    return count


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@lru_cache
def versions() -> dict[str, str]:
    """Python and the packages that can change a result, where installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
