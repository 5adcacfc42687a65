"""Compiling on first use: caching, two processes at once, no writable cache, no compiler, sanitizers."""

import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_modules.kernels.cpp import library

REPOSITORY = Path(__file__).parents[2]
# By path: without the packages around it the module needs no torch, and starts at once.
LOAD = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("library", sys.argv[1])
library = importlib.util.module_from_spec(spec)
spec.loader.exec_module(library)
library.SOURCES = Path(sys.argv[2])
print(library.load().answer())
"""
CONVOLVE = """
import warnings, torch
from lightning_modules.kernels import available, backends_used, depthwise_conv1d
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        depthwise_conv1d(torch.zeros(1, 4, 2), torch.zeros(2, 3))
print(backends_used()["depthwise_conv1d"], len(caught), available()["depthwise_conv1d"]["cpp"])
"""
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A library of one function that compiles in no time."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "answer.cpp").write_text('extern "C" int answer() { return 42; }\n')
    return folder


def start_loading(source: Path, **environment: object) -> subprocess.Popen:
    return start(LOAD, library.__file__, source, **environment)


def start(script: str, *arguments: object, **environment: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in environment.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


def test_processes_that_compile_at_once_agree(tmp_path: Path, source: Path) -> None:
    cache = tmp_path / "cache"
    assert [output(p) for p in [start_loading(source, ABLATE_CACHE=cache) for _ in range(3)]] == ["42"] * 3
    assert [path.suffix for path in (cache / "kernels").iterdir()] == [".so"]


def test_a_changed_source_is_compiled_anew_and_a_known_one_is_not(tmp_path: Path, source: Path) -> None:
    cache = tmp_path / "cache"
    assert output(start_loading(source, ABLATE_CACHE=cache)) == "42"
    assert output(start_loading(source, ABLATE_CACHE=cache, CXX="", PATH="")) == "42"
    (source / "answer.cpp").write_text('extern "C" int answer() { return 7; }\n')
    assert output(start_loading(source, ABLATE_CACHE=cache)) == "7"
    assert len(list((cache / "kernels").iterdir())) == 2


def test_a_cache_that_cannot_be_written_falls_back_to_the_temporary_folder(tmp_path: Path, source: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    assert output(start_loading(source, ABLATE_CACHE=blocked / "cache", TMPDIR=temporary)) == "42"
    assert len(list(temporary.glob("ablate-kernels-*/*.so"))) == 1


def test_a_cache_in_which_nothing_can_be_built_falls_back_to_the_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path
) -> None:
    """A full quota, or a file system from which no code may be loaded: an empty file can be made there all the same."""
    monkeypatch.setattr(library, "SOURCES", source)
    monkeypatch.setattr(library.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    build, tried = library._build, []

    def full(command: list[str], built: Path) -> str:
        tried.append(built)
        return "No space left on device" if (tmp_path / "cache") in built.parents else build(command, built)

    monkeypatch.setattr(library, "_build", full)
    assert library.load.__wrapped__().answer() == 42
    assert (tmp_path / "cache") in tried[0].parents
    assert len(list((tmp_path / "tmp").glob("ablate-kernels-*/*.so"))) == 1


def test_the_next_compiler_is_tried_where_one_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path
) -> None:
    commands = [["false"], ["g++"]]
    monkeypatch.setattr(library, "SOURCES", source)
    monkeypatch.setattr(library, "_compilers", lambda: commands)
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    assert library.load.__wrapped__().answer() == 42


def test_numbers_are_converted_lane_by_lane_where_the_compiler_cannot(tmp_path: Path) -> None:
    """GCC 8 has no __builtin_convertvector; both ways give the same bits."""
    program = tmp_path / "convert.cpp"
    program.write_text(
        '#include <cstdio>\n#include <cstring>\n#include "simd.h"\nusing namespace simd;\n'
        "int main() {\n"
        "  for (int i = 0; i < 1000; ++i) {\n"
        "    Vec v = zeros(), a;\n"
        "    for (unsigned k = 0; k < sizeof(v) / 4; ++k) v[k] = (i - 500) * 0.731f + k;\n"
        '    if (i == 7) v[0] = __builtin_nanf("");\n'
        "    const Vec back = widen(narrow(v));\n"
        "    exp2_each<1>(&v, &a);\n"
        "    unsigned bits[2 * sizeof(v) / 4];\n"
        "    std::memcpy(bits, &back, sizeof(v));\n"
        "    std::memcpy(bits + sizeof(v) / 4, &a, sizeof(v));\n"
        '    for (unsigned word : bits) std::printf("%08x ", word);\n'
        "  }\n}\n"
    )
    outputs = []
    for flags in ((), ("-DSIMD_LANE_BY_LANE",)):
        built = tmp_path / f"convert{len(outputs)}"
        command = ["g++", *library.BASE_FLAGS, "-march=native", *flags, f"-I{library.SOURCES}", program, "-o", built]
        subprocess.run(command, check=True, timeout=120)
        outputs.append(subprocess.run([built], check=True, capture_output=True, timeout=60).stdout)
    assert outputs[0] == outputs[1] and len(outputs[0]) > 10_000


def test_what_others_may_have_left_in_the_temporary_folder_is_not_loaded(tmp_path: Path, source: Path) -> None:
    """There anyone can make a folder of that name before the user does."""
    places = {"ABLATE_CACHE": tmp_path / "cache", "TMPDIR": tmp_path}
    assert output(start_loading(source, **places)) == "42"
    (built,) = (tmp_path / "cache" / "kernels").glob("*.so")
    shared = tmp_path / f"ablate-kernels-{os.getuid()}"
    shared.mkdir(mode=0o700)
    shutil.copy(built, shared)
    blocked = {"ABLATE_CACHE": "/proc/none", "TMPDIR": tmp_path, "CXX": "false"}
    assert output(start_loading(source, **{**blocked, "CXX": ""})) == "42"
    shared.chmod(0o777)
    _, complaint = start_loading(source, **{**blocked, "CXX": ""}).communicate(timeout=120)
    assert "no cache or temporary folder is writable" in complaint


def test_a_read_only_cache_is_read(tmp_path: Path, source: Path) -> None:
    cache = tmp_path / "cache"
    output(start_loading(source, ABLATE_CACHE=cache))
    for path in (cache / "kernels", cache):
        path.chmod(0o500)
    try:
        assert output(start_loading(source, ABLATE_CACHE=cache, PATH="")) == "42"
    finally:
        for path in (cache, cache / "kernels"):
            path.chmod(0o700)


def test_without_a_compiler_torch_stands_in_with_one_warning(tmp_path: Path) -> None:
    process = start(CONVOLVE, ABLATE_CACHE=tmp_path / "cache", TMPDIR=tmp_path, PATH="", CXX="", ABLATE_KERNELS="")
    backend, warnings, reason = output(process).split(" ", 2)
    assert (backend, warnings) == ("torch", "1")
    assert "install g++ or clang++" in reason


def test_a_compiler_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path) -> None:
    (source / "answer.cpp").write_text("this is not C++\n")
    monkeypatch.setattr(library, "SOURCES", source)
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(library.CompilerMissing, match="failed: .*error"):
        library.load.__wrapped__()


@pytest.fixture
def compiler(tmp_path: Path) -> Path:
    """One without OpenMP."""
    script = tmp_path / "compiler"
    script.write_text('#!/bin/sh\ncase "$*" in *-fopenmp*) echo unknown option >&2; exit 1;; esac\nexec g++ "$@"\n')
    script.chmod(0o700)
    return script


def test_a_library_without_threads_or_wide_vectors_says_so_also_when_it_is_found_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("build.cpp", "simd.h"):
        shutil.copy(library.SOURCES / name, source)
    load = library.load.__wrapped__
    monkeypatch.setattr(library, "SOURCES", source)
    monkeypatch.setattr(library, "LANES", {64: set()})
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(compiler))
    for path in (os.environ["PATH"], ""):
        monkeypatch.setenv("PATH", path)
        monkeypatch.setattr(library, "load", functools.cache(load))
        with pytest.warns(UserWarning, match="one thread.* numbers at once, where this processor can 64.*remove .*so"):
            assert library.missing.__wrapped__() is None
        made = library.build()
        assert not made.threads and made.flags in ("-march=native", "-mcpu=native")
        assert made.lanes in (4, 8, 16) and made.compiler[0].isdigit()


def test_a_whole_library_is_no_reason_to_warn(recwarn: pytest.WarningsRecorder) -> None:
    made = library.Build("12", "-march=native -fopenmp", 64, True, "kernels.so")
    assert made.losses() == [] and library.missing.__wrapped__() is None
    assert not [warning for warning in recwarn if "library is slow" in str(warning.message)]


@pytest.mark.parametrize("phase", ["-c", "-shared"])
def test_a_compiler_or_linker_that_hangs_is_killed_and_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path, phase: str
) -> None:
    started, script = tmp_path / "started", tmp_path / "compiler"
    hang = f"sleep 600 &\necho $! >> {started}\nwait"
    script.write_text(f'#!/bin/sh\ncase "$*" in *" {phase} "*) {hang};; esac\n')
    script.chmod(0o700)
    monkeypatch.setattr(library, "SOURCES", source)
    monkeypatch.setattr(library, "COMPILE_SECONDS", 2)
    monkeypatch.setattr(library.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_compilers", lambda: [[str(script)]])
    with pytest.raises(library.CompilerMissing, match="did not end in 2 s; set CXX"):
        library.load.__wrapped__()
    (child,) = started.read_text().split()
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_compiling_and_linking_have_one_deadline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path, compiler: Path
) -> None:
    compiler.write_text('#!/bin/sh\nsleep 0.6\nexec g++ "$@"\n')
    monkeypatch.setattr(library, "SOURCES", source)
    monkeypatch.setattr(library, "COMPILE_SECONDS", 1)
    with pytest.raises(library.CompilerHangs):
        library._build([str(compiler)], tmp_path / "built.so")


def test_a_library_that_is_there_stays_unless_it_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path
) -> None:
    def publish(name: str) -> int:
        built = tmp_path / "built.so"
        assert not library._build(["g++", *library.BASE_FLAGS], built)
        published = library._publish(built, tmp_path / name)
        assert published is not None and published.answer() == 42
        built.unlink(missing_ok=True)
        return (tmp_path / name).stat().st_ino

    monkeypatch.setattr(library, "SOURCES", source)
    assert publish("first.so") == publish("first.so")
    for name in ("broken.so", "bad.so"):  # names of their own: a process does not load a name twice
        (tmp_path / name).write_text("half a library")
    broken = (tmp_path / "broken.so").stat().st_ino
    assert publish("broken.so") != broken
    assert library._publish(tmp_path / "bad.so", tmp_path / "none.so") is None and not (tmp_path / "none.so").exists()
    monkeypatch.setattr(library.os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    publish("moved.so")


def test_old_leftovers_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "cache" / "kernels"
    ages = {".building-1": 2, ".building-2": 0.5, "kernels-1.so": 100, "kernels-2.so": 80, "notes": 100}
    for name, days in ages.items():
        path = folder / name
        path.mkdir(parents=True) if name.startswith(".") else path.write_text("")
        os.utime(path, (time.time() - days * 24 * 3600,) * 2)
    monkeypatch.setattr(library, "SOURCES", source)
    monkeypatch.setenv("ABLATE_CACHE", str(folder.parent))
    library.load.__wrapped__()
    (made,) = {path.name for path in folder.iterdir()} - ages.keys()
    assert {path.name for path in folder.iterdir()} == {".building-2", "kernels-2.so", "notes", made}
    os.utime(folder / made, (0, 0))
    library.load.__wrapped__()
    assert (folder / made).stat().st_mtime > time.time() - 60  # whoever loads a library keeps it


@pytest.mark.slow
@pytest.mark.parametrize("target", ["native", "x86-64"])
def test_sanitizers_find_nothing(tmp_path: Path, target: str) -> None:
    """Every entry point on heap buffers of exact size, under AddressSanitizer and UndefinedBehaviorSanitizer."""
    if target != "native" and os.uname().machine != "x86_64":
        pytest.skip("an x86 instruction set")
    program = tmp_path / "sanitized"
    # Unoptimised: compiles several times faster, and nothing that should be seen is optimised away. Without
    # always_inline, so that a function is instrumented once and not wherever it is called: compiles faster still.
    command = ["g++", "-O0", "-std=c++17", f"-march={target}", "-fopenmp", "-fsanitize=address,undefined"]
    command += ["-fno-sanitize-recover=all", "-Dalways_inline=unused", f"-I{library.SOURCES}"]
    sources = [*sorted(library.SOURCES.glob("*.cpp")), Path(__file__).with_name("sanitized.cpp")]
    objects = [tmp_path / f"{source.stem}.o" for source in sources]
    jobs = [
        subprocess.Popen([*command, "-c", source, "-o", to], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for source, to in zip(sources, objects, strict=True)
    ]
    for job in jobs:
        output(job)
    subprocess.run([*command, *objects, "-o", program], capture_output=True, timeout=60, check=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "ASAN_OPTIONS": "detect_leaks=0"}
    run = subprocess.run([program], capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert "cases passed" in run.stdout
