"""Compiles the C++ sources for this processor on first use, caches the shared library, loads it with ctypes."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

SOURCES = Path(__file__).parent / "source"
OPENMP = "-fopenmp"
# No -ffast-math: it would flush denormals in the whole process and break NaN propagation. Contraction is named because
# -std=c++17 turns it off.
BASE_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
TARGETS = (("-march=native", OPENMP), ("-mcpu=native", OPENMP), ("-march=native",), ("-mcpu=native",), ())
COMPILE_SECONDS = 300
_SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class CompilerMissing(RuntimeError):
    """No C++ compiler, or it failed; the message says which."""


@functools.cache
def missing() -> str | None:
    """None where the C++ back end works here, else why not; the first call may compile for some seconds."""
    try:
        load()
    except CompilerMissing as error:
        warnings.warn(f"The C++ kernels are off, the slower torch back end stands in: {error}", stacklevel=2)
        return str(error)
    return None


@functools.cache
def load() -> ctypes.CDLL:
    """The compiled library. Raises CompilerMissing.

    Import torch first: the library asks for an OpenMP runtime by name and then shares torch's and its thread pool.
    """
    name = f"kernels-{_fingerprint()}.so"
    for folder in _cache_folders():
        if _trusted(folder) and (folder / name).is_file() and (library := _open(folder / name)) is not None:
            return library
    complaints = []
    for folder in filter(_writable, _cache_folders()):
        for compiler in _compilers():
            try:
                return _compile(folder / name, compiler)
            except (CompilerMissing, OSError) as error:  # also a full disk, or one from which nothing may be loaded
                complaints.append(str(error))
    raise CompilerMissing(
        complaints[0] if complaints else "no cache or temporary folder is writable; set ABLATE_CACHE to one that is"
    )


def call(function: str, dtype: torch.dtype, fields: Iterable[int]) -> int:
    """Call a kernel for tensors of this dtype, with an argument structure that is made of 64-bit numbers alone.

    Args:
        fields: the structure's numbers, and addresses of tensors that live until this returns.

    Returns:
        The kernel's status, 0 for success; of one without a status, any number.
    """
    values = list(fields)
    return getattr(load(), f"{function}_{_SUFFIX[dtype]}")((ctypes.c_int64 * len(values))(*values))


def address(tensor: Tensor | None) -> int:
    """Where the elements of a tensor lie; 0 where there is none or it has none."""
    return 0 if tensor is None else tensor.data_ptr()


def _compile(target: Path, compiler: list[str]) -> ctypes.CDLL:
    message = ""
    # Each process compiles in its own folder and moves the result into place: whoever comes last replaces an equal one.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as folder:
        for target_flags in TARGETS:
            built = Path(folder) / target.name
            errors = _build([*compiler, *BASE_FLAGS, *target_flags], built)
            if not errors and (library := _open(built)) is not None:
                os.replace(built, target)
                return library
            message = message or errors
    raise CompilerMissing(f"{compiler[0]} failed: {message[:500] or 'the library it made does not load'}")


def _build(command: list[str], built: Path) -> str:
    """Compiles the sources side by side and links them; the compiler's complaints, empty where all went well."""
    objects = {source: built.with_name(f"{source.stem}.o") for source in sorted(SOURCES.glob("*.cpp"))}
    try:
        jobs = [
            subprocess.Popen([*command, "-c", source, "-o", to], stderr=subprocess.PIPE, text=True)
            for source, to in objects.items()
        ]
        errors = [job.communicate(timeout=COMPILE_SECONDS)[1] for job in jobs]
        if any(job.returncode for job in jobs):
            return "\n".join(errors).strip() or "no message"
        link: list[str | Path] = [*command, "-shared", *objects.values(), "-o", built]
        run = subprocess.run(link, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
        return run.stderr.strip() or "no message" if run.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompilerMissing(f"{command[0]} could not run: {error}") from error


def _compilers() -> list[list[str]]:
    """The commands of C++ compilers to try: CXX, else those of the usual names that are there."""
    if named := shlex.split(os.environ.get("CXX", "")):
        return [named]
    if found := [[path] for name in ("g++", "clang++", "c++") if (path := shutil.which(name))]:
        return found
    raise CompilerMissing("no C++ compiler found; install g++ or clang++, or set CXX")


def _open(path: Path) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def _fingerprint() -> str:
    """Hash of all that decides the machine code: sources, flags, compiler choice, processor."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    digest.update(repr((BASE_FLAGS, TARGETS, os.environ.get("CXX", ""), _processor())).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """What -march=native depends on: model and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU implementer", "CPU part")
    return platform.machine() + "".join(line for line in lines if line.split(":")[0].strip() in wanted)


def _cache_folders() -> list[Path]:
    """Where the library may lie, best first: the user's cache, then a private folder of the temporary directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~")) / ".cache"
    named = os.environ.get("ABLATE_CACHE") or Path(cache) / "ablate"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return [Path(named) / "kernels", Path(tempfile.gettempdir()) / f"ablate-kernels-{user}"]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        return False
    return _trusted(folder)


def _trusted(folder: Path) -> bool:
    """Whether nobody else can put code there: the folder of the shared temporary directory must be the user's alone."""
    if folder != _cache_folders()[-1] or not hasattr(os, "getuid"):
        return True
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
