"""`ablate sample --export`: the same images whoever draws them, in others' formats, never mixed with other samples."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Lock
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments import export
from experiments.config import load_config
from experiments.errors import UserError
from experiments.export import export_samples
from experiments.shards import Shards
from tests.conftest import Ablate
from tests.experiments.configs import COUNT, config_in, finished, run_under

pytestmark = pytest.mark.usefixtures("small_parts")


def test_any_sharding_draws_the_same_images(random_weights: Path, tmp_path: Path, undivided: np.ndarray) -> None:
    config, run = config_in(random_weights), run_under(random_weights)
    folder = tmp_path / "shared"
    assert export_samples(config, run, "png", folder, COUNT, 0, share=(1, 2)) == []
    assert not list(folder.glob("*.png"))
    (folder / ".000003.png.torn.png").touch()  # by a kill: evaluators would take it for an image
    written = export_samples(config, run, "png", folder, COUNT, 0, share=(0, 2))
    pictures = sorted(folder.glob("*.png"))
    assert len(written) == COUNT + 1 and len(pictures) == COUNT and not (folder / "shards").exists()
    assert np.array_equal(np.stack([np.asarray(Image.open(path)) for path in pictures]), undivided)
    with open(folder / "samples.csv") as file:
        assert list(csv.DictReader(file))[10] == {"file": "000010.png", "label": "1"}
    other = export_samples(config, run, "npz", tmp_path / "other", COUNT, seed=1)
    with np.load(other[0]) as file:
        assert not np.array_equal(file["arr_0"], undivided)


def test_of_shares_that_end_together_one_writes_and_both_say_so(
    random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = config_in(random_weights), run_under(random_weights)
    monkeypatch.setattr(export, "drawer", lambda *_: lambda span: (np.zeros((len(span), 4, 4, 3), np.uint8), 0.0))
    filled, removed, gathering = Barrier(2, timeout=60), Event(), Lock()
    fill, gather, remove = Shards.fill, Shards.gather, Shards.remove

    def fill_together(self: Shards, *args: Any, **options: Any) -> None:
        fill(self, *args, **options)
        filled.wait()

    def gather_late(self: Shards) -> Any:
        if gathering.acquire(blocking=False):  # the first one: give the second time to be faster
            removed.wait(0.5)
        return gather(self)

    def remove_and_tell(self: Shards) -> None:
        remove(self)
        removed.set()

    monkeypatch.setattr(Shards, "fill", fill_together)
    monkeypatch.setattr(Shards, "gather", gather_late)
    monkeypatch.setattr(Shards, "remove", remove_and_tell)
    with ThreadPoolExecutor() as pool:
        shares = [pool.submit(export_samples, config, run, "npz", tmp_path, COUNT, 0, share=(i, 2)) for i in range(2)]
        first, second = (share.result() for share in shares)
    assert first == second == [tmp_path / f"samples_{COUNT}x4x4x3.npz"] and not (tmp_path / "shards").exists()


def test_parts_of_other_samples_are_not_mixed_in(random_weights: Path, tmp_path: Path) -> None:
    config, run = config_in(random_weights), run_under(random_weights)
    export_samples(config, run, "npz", tmp_path, COUNT, 0, share=(0, 3))
    with pytest.raises(UserError, match="parts of other samples"):
        export_samples(config, run, "npz", tmp_path, COUNT, 7, share=(1, 3))


def test_a_folder_of_other_samples_is_refused_and_left_alone(random_weights: Path, tmp_path: Path) -> None:
    config, run = config_in(random_weights), run_under(random_weights)
    written = export_samples(config, run, "png", tmp_path, 4, seed=0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for count, seed in ((2, 0), (4, 3)):
        with pytest.raises(UserError, match=f"{tmp_path} holds other samples .see samples.json.; name another folder"):
            export_samples(config, run, "png", tmp_path, count, seed)
    assert export_samples(config, run, "png", tmp_path, 4, 0) == written, "the same ones are found done"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    written[1].unlink()
    assert export_samples(config, run, "png", tmp_path, 4, 0) == written and written[1].exists()
    export_samples(config, run, "npz", tmp_path, 4, 0)  # of the same samples there may be both
    assert written[0].exists() and (tmp_path / "samples_4x32x32x3.npz").exists()


def test_captions_are_part_of_what_samples_are_of(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    small = {"generator.width": 16, "generator.depth": 2, "generator.heads": 2, "sampler.steps": 1}
    values = {**small, "runtime.root": str(tmp_path), "runtime.threads": 1}
    run = finished(load_config("maskmamba/text-demo", values))

    def drawn(**evaluation: str) -> list[dict[str, str]]:
        asked = load_config("maskmamba/text-demo", {**values, **{f"evaluation.{k}": v for k, v in evaluation.items()}})
        export_samples(asked, run, "png", tmp_path / "drawn", 2, 0)
        with open(tmp_path / "drawn" / "samples.csv") as file:
            return list(csv.DictReader(file))

    prompts.write_text("abacus\n")
    assert [row["caption"] for row in drawn(prompt_file=str(prompts))] == ["abacus"] * 2
    prompts.write_text("green apple\n")
    for others in ({"prompt_file": str(prompts)}, {}, {"prompts": "train"}):
        with pytest.raises(UserError, match="holds other samples"):
            drawn(**others)


def test_the_command_exports_and_shares(random_weights: Path, tmp_path: Path, ablate: Ablate) -> None:
    def sample(*words: object) -> tuple[int, str]:
        code, out, err = ablate("sample", run_under(random_weights).id, "--root", random_weights, *words)
        return code, out + err

    words = ("--export", "npz", tmp_path, "--count", 10, "sampler.steps=1")
    assert sample(*words, "--shard", "0/2")[1].count("others are missing") == 1
    for share in ("1/2", "0/2"):  # the second is told that another one has written them meanwhile
        code, said = sample(*words, "--shard", share)
        assert code == 0 and "Wrote 10 images to" in said
        assert {path.name for path in tmp_path.iterdir()} == {"samples_10x32x32x3.npz", "samples.json"}
    for more, what in ((("--class", "flags"), "without --class"), (("--shard", "2/2"), "I/K")):
        code, said = sample(*words, *more)
        assert code == 2 and what in said
