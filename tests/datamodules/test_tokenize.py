"""Tokenizing: alignment, resumption to identical bytes, shards, errors, verification."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
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
from datamodules.tokenize.verify import verify_store
from lightning_modules.tokenizers.config import TOKENIZERS
from tests.datamodules.collections import (
    Toy,
    ToyConfig,
    ToyLatents,
    caption,
    class_tree,
    encoded,
    img2dataset,
    numbers_of,
    picture,
    run,
    tar_shard,
)


def content(folder: Path) -> dict[str, bytes]:
    """Every file beneath a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


BAD = {
    2: b"",
    5: encoded(picture(5), "JPEG")[:150],
    6: b"not an image",
    9: None,
}
"""Image number -> what its file holds instead; None: a name that leads nowhere."""


@pytest.fixture
def broken(tmp_path):
    """Captioned images, some of which cannot be used."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(1, 14):
        path = folder / f"{number:02d}.png"
        if BAD.get(number, b"x") is None:
            path.symlink_to(tmp_path / "nowhere")
        else:
            path.write_bytes(BAD.get(number, encoded(picture(number))))
        path.with_suffix(".txt").write_text("\x07 \n" if number == 11 else caption(number))
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_left_out_takes_label_caption_and_key_along(broken, tmp_path, workers):
    """No shift between images and their captions, wherever the broken ones stand in units and batches."""
    summary = run("folder", broken, tmp_path / "out", work=Work(batch_size=3, workers=workers))
    store = TokenStore(tmp_path / "out/train", verify=True)
    numbers = numbers_of(store.codes)
    assert numbers == [n for n in range(1, 14) if n not in (*BAD, 11)]
    for i, number in enumerate(numbers):
        assert store.caption(i) == caption(number) and store.key(i) == f"{number:02d}.png"
    report = json.loads((tmp_path / "out/train/report.json").read_text())
    reasons = dict(report["refused"])
    assert {int(key[:2]) for key in reasons} == {*BAD, 11}
    assert reasons["02.png"] == "empty file" and reasons["09.png"] == "file not found"
    assert reasons["11.png"] == "empty caption" and reasons["06.png"] == "not an image"
    assert summary.images == report["images"] == 8 and sum(summary.refused.values()) == 5
    assert not (tmp_path / "out/train.parts").exists()


def test_stop_at_the_first_broken_image(broken, tmp_path):
    with pytest.raises(ValueError, match=r"02\.png: empty file.*--on-error skip"):
        run("folder", broken, tmp_path / "out", work=Work(on_error="stop"))
    assert not (tmp_path / "out/train").exists()


@pytest.mark.parametrize("toy", [Toy, ToyLatents])
def test_views_shards_and_batches_make_the_same_store(tmp_path, toy):
    source = class_tree(tmp_path / "images", range(1, 14))
    crops = {"crops": ("centre", "ten_1.1"), "flip": True, "toy": toy()}
    run("folder", source, tmp_path / "whole", **crops, work=Work(batch_size=24))
    for shard in (2, 0, 1):
        assert run("folder", source, tmp_path / "parts", **crops, work=Work(batch_size=24, shard=(shard, 3))) is None
        if shard == 2:
            with pytest.raises(ValueError, match="3 parts of train are not there yet"):
                merge(tmp_path / "parts", "train")
    merge(tmp_path / "parts", "train")
    assert content(tmp_path / "whole") == content(tmp_path / "parts")
    store = TokenStore(tmp_path / "whole/train", verify=True)
    assert store.meta.views == 12 and store.codes.dtype == (np.float16 if toy is ToyLatents else np.uint16)
    assert store.codes.shape == ((13, 12, 1, 2, 2) if toy is ToyLatents else (13, 12, 4))


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
    assert content(tmp_path / "whole") == content(tmp_path / "out")


KILLED = """
import sys, time
from pathlib import Path
from datamodules.tokenize.crops import Crops
from datamodules.tokenize.encode import Work
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
    assert content(tmp_path / "whole") == content(tmp_path / "out")


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
    assert content(tmp_path / "whole") == content(tmp_path / "out")


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


class Wrong(Toy):
    def __init__(self, change):
        self.change = change

    def encode_uint8(self, images):
        return self.change(super().encode_uint8(images))


@pytest.mark.parametrize(
    "change,message", [(lambda t: t + 60, "outside its vocabulary"), (lambda t: t[:, :2], r"\(3, 4\) was expected")]
)
def test_a_tokenizer_that_does_not_fit(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run("folder", class_tree(tmp_path / "images", range(10, 14)), tmp_path / "out", toy=Wrong(change))


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2)])
def test_shards_are_counted_from_0(shard):
    with pytest.raises(ValueError, match="numbered 0 to 1 of 2"):
        Work(shard=shard)


@pytest.mark.parametrize("name", TOKENIZERS.names())
def test_every_tokenizer_says_what_it_makes(name, tmp_path):
    """Its configuration suffices to plan a store."""
    config = TOKENIZERS[name].config()
    source = class_folders(class_tree(tmp_path, [1, 2]))
    plan = make_plan(Job("folder", tmp_path, tmp_path), source, Crops(size=config.image_size), True, config)
    assert plan.codes_shape and all(plan.codes_shape) and plan.image_size == config.image_size
    assert plan.latents == (not plan.vocab_size)
    json.dumps(asdict(plan))


# --- verification -----------------------------------------------------------------------------------------------------


def test_verify_decodes_random_samples_of_the_right_images(tmp_path):
    from PIL import Image

    run("folder", class_tree(tmp_path / "images", range(1, 14)), tmp_path / "out", flip=True)
    found = verify_store(tmp_path / "out/train", Toy().decode_uint8, tmp_path / "grid.png")
    assert (found.images, found.views, found.captions) == (13, 2, 0) and found.codes_in_use == pytest.approx(13 / 64)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (13 * 98, 2 * 98, 3)  # tiles of 16 pixels, six times as large
    for row, (key, label, _) in enumerate(found.shown):
        number = int(key[-7:-4])
        assert label == number % 3 and grid[row * 98 + 48, 48].tolist() == [4 * number] * 3
    run("folder", tmp_path / "images", tmp_path / "plain")
    found = verify_store(tmp_path / "plain/train", Toy().decode_uint8, tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (4 * 98, 4 * 98, 3)  # of one view: four images a row
    assert grid[98 + 48, 98 + 48].tolist() == [4 * int(found.shown[5][0][-7:-4])] * 3


def test_verify_finds_damage(tmp_path):
    run("folder", class_tree(tmp_path / "images", range(1, 14)), tmp_path / "out")
    path = tmp_path / "out/train/tokens.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"checksum of tokens\.npy"):
        verify_store(tmp_path / "out/train")
