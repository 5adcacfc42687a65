"""Tokenizing that was interrupted, shared, or asked for twice: identical bytes in the end, and nothing mixed up."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from datamodules.files import work_lock
from datamodules.sources.folders import class_folders
from datamodules.store import TokenStore
from datamodules.tokenize import merge as merge_module
from datamodules.tokenize import plan as plan_module
from datamodules.tokenize.crops import Crops
from datamodules.tokenize.encode import Work
from datamodules.tokenize.job import Job, make_plan
from datamodules.tokenize.merge import merge
from tests.datamodules.collections import (
    Toy,
    ToyConfig,
    class_tree,
    content_of,
    img2dataset,
    run,
    tar_shard,
)


def test_an_interruption_anywhere_changes_nothing(tmp_path):
    source = class_tree(tmp_path / "images", range(1, 14))
    run("folder", source, tmp_path / "whole")

    class Dies(Toy):
        calls = 0

        def encode_uint8(self, images):
            Dies.calls += 1
            if Dies.calls % 2 == 0:
                raise RuntimeError("killed")
            return super().encode_uint8(images)

    for _ in range(10):
        try:
            run("folder", source, tmp_path / "out", work=Work(batch_size=4), toy=Dies())
            break
        except RuntimeError:
            assert not (tmp_path / "out/train").exists()
    assert Dies.calls > 4
    assert content_of(tmp_path / "whole") == content_of(tmp_path / "out")


KILLED = """
import sys, time
from pathlib import Path
from datamodules.tokenize.crops import Crops
from datamodules.tokenize.crops import Crops
from datamodules.tokenize.encode import Work
from datamodules.tokenize.job import Job, make_plan
from datamodules.tokenize.job import Job, make_plan
from tests.datamodules.collections import Toy, run
class Slow(Toy):
    def encode_uint8(self, images):
        time.sleep(0.15)
        return super().encode_uint8(images)
run("cc3m", Path(sys.argv[1]), Path(sys.argv[2]), toy=Slow(), work=Work(batch_size=3))
"""


def test_kill_9_and_again_gives_identical_bytes(tmp_path):
    for shard in range(5):
        numbers = range(shard * 6 + 1, shard * 6 + 7)
        tar_shard(tmp_path / f"tars/{shard:05d}.tar", [member for n in numbers for member in img2dataset(n)])
    run("cc3m", tmp_path / "tars", tmp_path / "whole", work=Work(batch_size=3))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "tars"), str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("train.parts/0*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= len(list((tmp_path / "out").glob("train.parts/0*.npz"))) < 5
    (tmp_path / "out/.train.killed").mkdir()  # as a merge leaves it that is killed
    run("cc3m", tmp_path / "tars", tmp_path / "out", work=Work(batch_size=3))
    assert not (tmp_path / "out/.train.killed").exists()
    assert content_of(tmp_path / "whole") == content_of(tmp_path / "out")


ORPHANED = """
import time
from multiprocessing import active_children
from datamodules.sources.records import Record
from datamodules.tokenize.crops import Crops
from datamodules.tokenize.prepare import Preparation, preparer
with preparer(Preparation(Crops(("centre",), False, 16), True, False), 1) as prepare:
    next(prepare(Record(str(i), 0, (), b"") for i in range(99)))
    print(active_children()[0].pid, flush=True)
    time.sleep(60)
"""


def test_decoding_processes_end_with_the_command_that_is_killed():
    command = [sys.executable, "-c", ORPHANED]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.kill()
    try:
        process.communicate(timeout=20)  # the pipe ends when nobody holds it any more
    except subprocess.TimeoutExpired:
        os.kill(worker, signal.SIGKILL)
        raise


def test_a_merge_reads_the_codes_once(tmp_path, monkeypatch):
    codes, read = [], merge_module.read_part

    def watched(*args, **options):
        part = read(*args, **options)
        codes.append(len(part.codes))
        return part

    monkeypatch.setattr(merge_module, "read_part", watched)
    run("folder", class_tree(tmp_path / "images", range(1, 14)), tmp_path / "out")
    assert sum(codes) == 13


def test_a_merge_that_another_was_faster_than_finds_the_store(tmp_path, monkeypatch):
    source = class_tree(tmp_path / "images", range(1, 10))
    for shard in (0, 1):
        run("folder", source, tmp_path / "out", work=Work(shard=(shard, 2)))

    @contextmanager
    def late(path):
        """The other one has the lock first."""
        monkeypatch.undo()
        first.append(merge(tmp_path / "out", "train"))
        with work_lock(path) as locked:
            yield locked

    first = []
    monkeypatch.setattr(merge_module, "work_lock", late)
    assert merge(tmp_path / "out", "train") == first[0] and first[0].images == 9
    assert TokenStore(tmp_path / "out/train", verify=True).meta.count == 9
    assert not (tmp_path / "out/train.parts").exists()
    assert merge(tmp_path / "out", "train") == first[0], "nor is a third of harm"


def test_without_locks_the_folder_of_a_merge_at_work_is_left_alone(tmp_path, monkeypatch):
    def no_locks(stream, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    source = class_tree(tmp_path / "images", range(1, 10))
    run("folder", source, tmp_path / "out", work=Work(shard=(0, 2)))
    at_work, killed = tmp_path / "out/.train.live", tmp_path / "out/.train.dead"
    for folder in (at_work, killed):
        folder.mkdir()
        (folder / "tokens.npy").touch()
    for path in (killed / "tokens.npy", killed, at_work):  # whose file alone is young
        os.utime(path, (0, time.time() - 2 * merge_module.ABANDONED))
    run("folder", source, tmp_path / "out")
    assert at_work.exists() and not killed.exists()
    with pytest.raises(FileNotFoundError, match="no tokenization to go on with"):
        merge(tmp_path / "nowhere", "train")


def test_other_settings_or_another_source_do_not_mix(tmp_path):
    source = class_tree(tmp_path / "images", range(1, 10))
    run("folder", source, tmp_path / "out", work=Work(shard=(0, 2)))
    with pytest.raises(ValueError, match=r'made with views = \["centre"\]'):
        run("folder", source, tmp_path / "out", flip=True)
    class_tree(source, [10])
    with pytest.raises(ValueError, match="made with source = "):
        run("folder", source, tmp_path / "out")
    run("folder", source, tmp_path / "new")
    assert run("folder", source, tmp_path / "new") is None  # there already
    with pytest.raises(ValueError, match="not with the views"):
        run("folder", source, tmp_path / "new", flip=True)


def test_of_two_commands_that_begin_together_one_is_refused(tmp_path, monkeypatch):
    """Both find no plan; parts of the one must not lie between those of the other."""
    write = plan_module.atomic_write

    def slow(path, content):
        time.sleep(0.3)
        write(path, content)

    monkeypatch.setattr(plan_module, "atomic_write", slow)
    source = class_folders(class_tree(tmp_path / "images", range(1, 10)))
    plans = [
        make_plan(Job("folder", tmp_path, tmp_path), source, Crops((crop,), False, 16), True, ToyConfig())
        for crop in ("centre", "adm")
    ]
    with ThreadPoolExecutor(2) as pool:
        failed = [pool.submit(plan_module.agree, tmp_path, plan) for plan in plans]
    errors = [future.exception() for future in failed]
    assert errors.count(None) == 1 and any("holds parts made with views" in str(error) for error in errors)


def test_other_files_in_the_place_of_the_store_are_noticed_before_any_work(tmp_path):
    """Such as the images themselves, with --out naming the folder of --source."""
    source = class_tree(tmp_path / "images/train", range(1, 4)).parent

    class Unused(Toy):
        def encode_uint8(self, images):
            raise AssertionError("encoded for nothing")

    with pytest.raises(ValueError, match="images/train is where the store goes, but other files lie there; name anoth"):
        run("folder", source, source, toy=Unused())
    assert [path.name for path in source.iterdir()] == ["train"]
    (tmp_path / "out/train").mkdir(parents=True)  # an empty folder is in nobody's way
    assert run("folder", source, tmp_path / "out", work=Work(shard=(0, 2))) is None
    run("folder", source, tmp_path / "out", work=Work(shard=(1, 2)))
    (tmp_path / "out/train/notes.txt").touch()
    with pytest.raises(ValueError, match="out/train is where the store goes"):
        merge(tmp_path / "out", "train")
    (tmp_path / "out/train/notes.txt").unlink()
    assert merge(tmp_path / "out", "train").images == 3


def test_a_full_disk_is_said_and_survived(tmp_path, monkeypatch):
    source = class_tree(tmp_path / "images", range(1, 14))
    run("folder", source, tmp_path / "whole")
    write, written = plan_module.atomic_write, []

    def full(path, action):
        written.append(path)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, action)

    monkeypatch.setattr(plan_module, "atomic_write", full)
    with pytest.raises(OSError, match="No space left"):
        run("folder", source, tmp_path / "out")
    monkeypatch.setattr(plan_module, "atomic_write", write)
    monkeypatch.setattr(merge_module, "SPARE", 1 << 60)
    with pytest.raises(ValueError, match="parts are kept, free some space and run merge again"):
        run("folder", source, tmp_path / "out")
    monkeypatch.undo()
    run("folder", source, tmp_path / "out")
    assert content_of(tmp_path / "whole") == content_of(tmp_path / "out")


def test_damaged_parts_and_plans_are_refused(tmp_path):
    source = class_tree(tmp_path / "images", range(1, 10))
    run("folder", source, tmp_path / "out", work=Work(shard=(0, 2)))
    parts = tmp_path / "out/train.parts"
    (parts / "00001.npz").write_bytes(b"PK no")
    with pytest.raises(ValueError, match=r"00001\.npz is damaged; remove it"):
        merge(tmp_path / "out", "train")
    (parts / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json is damaged"):
        merge(tmp_path / "out", "train")
    with pytest.raises(FileNotFoundError, match="no tokenization to go on with"):
        merge(tmp_path / "out", "val")
