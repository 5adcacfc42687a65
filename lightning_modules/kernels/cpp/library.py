"""Compiles the C++ sources for this processor on first use, caches the shared library, loads it with ctypes."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

SOURCES = Path(__file__).parent / "source"
OPENMP = "-fopenmp"
# No -ffast-math: it would flush denormals in the whole process and break NaN propagation. Contraction is named because
# -std=c++17 turns it off.
BASE_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
TARGETS = (("-march=native", OPENMP), ("-mcpu=native", OPENMP), ("-march=native",), ("-mcpu=native",), ())
COMPILE_SECONDS = 300
DAY = 24 * 3600
BUILD_KEPT, LIBRARY_KEPT = DAY, 90 * DAY
"""Seconds after which folders of builds that were killed, and libraries that nobody loads any more, are removed."""
LANES = {16: {"avx512f", "avx512dq", "avx512bw", "avx512vl"}, 8: {"avx2"}}
"""float32 numbers in a vector -> what the processor must have for it; 4 otherwise. As in simd.h."""
_SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class CompilerMissing(RuntimeError):
    """No C++ compiler, or it failed; the message says which."""


class CompilerHangs(CompilerMissing):
    """A compiler that did not end in `COMPILE_SECONDS`."""


class Build(NamedTuple):
    """What a library was compiled with."""

    compiler: str
    flags: str  # beside BASE_FLAGS
    lanes: int  # float32 numbers in a vector
    threads: bool
    file: str

    def losses(self) -> list[str]:
        """What it does without, though other builds would have it here."""
        words = set(_processor().split())
        possible = next((lanes for lanes, features in LANES.items() if features <= words), 4)
        losses = [] if self.threads else ["it runs on one thread, since the compiler has no OpenMP"]
        if self.lanes < possible:
            losses.append(f"it computes {self.lanes} numbers at once, where this processor can {possible}")
        return losses


@functools.cache
def missing() -> str | None:
    """None where the C++ back end works here, else why not; the first call may compile for some seconds."""
    try:
        made = build()
    except CompilerMissing as error:
        warnings.warn(f"The C++ kernels are off, the slower torch back end stands in: {error}", stacklevel=2)
        return str(error)
    if losses := made.losses():
        warnings.warn(f"The C++ library is slow: {', and '.join(losses)}. {way_out(made)}", stacklevel=2)
    return None


def build() -> Build:
    """What the library, new or cached, was compiled with. Raises CompilerMissing."""
    library = load()
    library.build_compiler.restype = library.build_flags.restype = ctypes.c_char_p
    compiler, flags = library.build_compiler().decode(), library.build_flags().decode()
    return Build(compiler, flags, library.simd_lanes(), bool(library.build_has_threads()), library._name)


def way_out(made: Build) -> str:
    """How to get a library without losses."""
    return f"Install a recent g++ with libgomp or clang++ with libomp, or set CXX to one, and remove {made.file}."


@functools.cache
def load() -> ctypes.CDLL:
    """The compiled library. Raises CompilerMissing.

    Import torch first: the library asks for an OpenMP runtime by name and then shares torch's and its thread pool.
    """
    name = f"kernels-{_fingerprint()}.so"
    for folder in _cache_folders():
        if _trusted(folder) and (folder / name).is_file() and (library := _open(folder / name)) is not None:
            with suppress(OSError):
                os.utime(folder / name)  # in use
            return library
    complaints, hanging = [], []
    for folder in filter(_writable, _cache_folders()):
        _clean(folder)
        for compiler in (command for command in _compilers() if command not in hanging):
            try:
                return _compile(folder / name, compiler)
            except CompilerHangs as error:
                complaints.append(str(error))
                hanging.append(compiler)
            except (CompilerMissing, OSError) as error:  # also a full disk, or one from which nothing may be loaded
                complaints.append(str(error))
    raise CompilerMissing(
        complaints[0] if complaints else "no cache or temporary folder is writable; set ABLATE_CACHE to one that is"
    )


def variant(function: str, dtype: torch.dtype) -> Callable[[Any], int]:
    """The C++ function for tensors of this dtype; it takes a structure of arguments by reference."""
    return getattr(load(), f"{function}_{_SUFFIX[dtype]}")


def call(function: str, dtype: torch.dtype, fields: Iterable[int]) -> int:
    """Call a kernel for tensors of this dtype, with an argument structure that is made of 64-bit numbers alone.

    Args:
        fields: the structure's numbers, and addresses of tensors that live until this returns.

    Returns:
        The kernel's status, 0 for success; of one without a status, any number.
    """
    values = list(fields)
    return variant(function, dtype)((ctypes.c_int64 * len(values))(*values))


def address(tensor: Tensor | None) -> int:
    """Where the elements of a tensor lie; 0 where there is none or it has none."""
    return 0 if tensor is None else tensor.data_ptr()


def _compile(target: Path, compiler: list[str]) -> ctypes.CDLL:
    message = ""
    # Each process compiles in its own folder.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-", ignore_cleanup_errors=True) as folder:
        for target_flags in TARGETS:
            built = Path(folder) / target.name
            named = f'-DBUILD_FLAGS="{" ".join(target_flags)}"'
            errors = _build([*compiler, *BASE_FLAGS, *target_flags, named], built)
            if not errors and (library := _publish(built, target)) is not None:
                return library
            message = message or errors
    raise CompilerMissing(f"{compiler[0]} failed: {message[:500] or 'the library it made does not load'}")


def _publish(built: Path, target: Path) -> ctypes.CDLL | None:
    """Put a library in its place and load it from there; None where it does not load.

    One that another process put there stays, for processes of other machines may have its pages mapped over a network.
    """
    try:
        os.link(built, target)
    except FileExistsError:
        if (library := _open(target)) is not None:
            return library
        os.replace(built, target)
    except OSError:  # a file system without links
        os.replace(built, target)
    if (library := _open(target)) is None:
        target.unlink(missing_ok=True)
    return library


def _clean(folder: Path) -> None:
    """Remove what builds that were killed have left, and libraries that nobody has loaded for long."""
    with suppress(OSError):
        for path in folder.iterdir():
            age = time.time() - path.stat().st_mtime
            if path.name.startswith(".building-") and age > BUILD_KEPT:
                shutil.rmtree(path, ignore_errors=True)
            elif path.match("kernels-*.so") and age > LIBRARY_KEPT:
                path.unlink(missing_ok=True)


def _build(command: list[str], built: Path) -> str:
    """Compiles the sources side by side and links them; the compiler's complaints, empty where all went well.

    Raises CompilerHangs if that is not done after `COMPILE_SECONDS`.
    """
    deadline = time.monotonic() + COMPILE_SECONDS
    objects = {str(source): str(built.with_name(f"{source.stem}.o")) for source in sorted(SOURCES.glob("*.cpp"))}
    compile_each = [[*command, "-c", source, "-o", to] for source, to in objects.items()]
    link = [*command, "-shared", *objects.values(), "-o", str(built)]
    return _run(compile_each, deadline) or _run([link], deadline)


def _run(commands: list[list[str]], deadline: float) -> str:
    """Runs compilers side by side until a time of the monotonic clock; complaints, empty where none failed."""
    jobs: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            # A group of its own, for a compiler starts other programs.
            jobs.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True))
        errors = [job.communicate(timeout=max(0.0, deadline - time.monotonic()))[1] for job in jobs]
    except subprocess.TimeoutExpired as error:
        message = f"{commands[0][0]} did not end in {COMPILE_SECONDS} s; set CXX to another compiler"
        raise CompilerHangs(message) from error
    except OSError as error:
        raise CompilerMissing(f"{commands[0][0]} could not run: {error}") from error
    finally:
        for job in jobs:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
            job.communicate()
    return ("\n".join(errors).strip() or "no message") if any(job.returncode for job in jobs) else ""


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
