"""Images drawn in parts: the same whoever draws them, resumable, and exported in others' formats."""

from __future__ import annotations

import csv
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Lock
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import evaluation as evaluation_module
from experiments import evaluator, export, process
from experiments import shards as sharding
from experiments.cli import main
from experiments.config import build_config, load_config, save_config
from experiments.errors import UserError
from experiments.evaluation import evaluate, evaluation_shards
from experiments.export import export_samples, share_of_evaluation
from experiments.run_config import RunConfig
from experiments.shards import Shards, parse_share
from experiments.store import Evaluation, Run, RunStore
from lightning_modules.metrics import efficientnet
from lightning_modules.metrics.measurement import Measurement
from lightning_modules.metrics.statistics import ReferenceStatistics, write_statistics
from tests.experiments.configs import finished

COUNT = 22


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "SHARD", 8)  # three parts, the last one shorter


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one run that passes for trained: random weights and a result."""
    root = tmp_path_factory.mktemp("trained")
    finished(config_in(root))
    return root


def config_in(root: Path, batch_size: int = 4) -> RunConfig:
    """A tiny generator with the embedded tokenizer."""
    raw = {
        "generator": {"width": 16, "heads": 2, "depth": 2},
        "sampler": {"steps": 2},
        "evaluation": {"num_samples": COUNT, "batch_size": batch_size},
        "runtime": {"root": str(root), "threads": 1},
    }
    return build_config(raw)


def only_run(root: Path) -> Run:
    (run,) = RunStore(root).runs()
    return run


@pytest.fixture
def expected(trained: Path, tmp_path: Path) -> np.ndarray:
    """All images by one process, in one batch."""
    (path,) = export_samples(config_in(trained, COUNT), only_run(trained), "npz", tmp_path / "whole", COUNT, seed=0)
    with np.load(path) as file:
        assert path.name == f"samples_{COUNT}x32x32x3.npz" and set(file) == {"arr_0", "arr_1"}
        assert file["arr_0"].dtype == np.uint8 and file["arr_1"].tolist() == [i % 9 for i in range(COUNT)]
        return file["arr_0"]


def test_any_sharding_draws_the_same_images(trained: Path, tmp_path: Path, expected: np.ndarray) -> None:
    config, run = config_in(trained), only_run(trained)
    folder = tmp_path / "shared"
    assert export_samples(config, run, "png", folder, COUNT, 0, share=(1, 2)) == []
    assert not list(folder.glob("*.png"))
    written = export_samples(config, run, "png", folder, COUNT, 0, share=(0, 2))
    pictures = sorted(folder.glob("*.png"))
    assert len(written) == COUNT + 1 and len(pictures) == COUNT and not (folder / "shards").exists()
    assert np.array_equal(np.stack([np.asarray(Image.open(path)) for path in pictures]), expected)
    with open(folder / "samples.csv") as file:
        assert list(csv.DictReader(file))[10] == {"file": "000010.png", "label": "1"}
    other = export_samples(config, run, "npz", tmp_path / "other", COUNT, seed=1)
    with np.load(other[0]) as file:
        assert not np.array_equal(file["arr_0"], expected)


@pytest.mark.parametrize("left", [0, 0.5])
def test_a_damaged_part_is_one_sentence(tmp_path: Path, left: float) -> None:
    shards = Shards(tmp_path, COUNT)
    shards.fill(lambda span: (np.zeros((len(span), 4, 4, 3), np.uint8), 0.0))
    path = shards.path(shards.spans[1])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole))])
    for read in (shards.gather, shards.sampled_by):
        with pytest.raises(UserError, match=f"Cannot read {path} .*; remove it and run the same command again"):
            read()


def test_of_shares_that_end_together_one_writes_and_both_say_so(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = config_in(trained), only_run(trained)
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


def test_parts_of_other_samples_are_not_mixed_in(trained: Path, tmp_path: Path) -> None:
    config, run = config_in(trained), only_run(trained)
    export_samples(config, run, "npz", tmp_path, COUNT, 0, share=(0, 3))
    with pytest.raises(UserError, match="parts of other samples"):
        export_samples(config, run, "npz", tmp_path, COUNT, 7, share=(1, 3))


def test_a_folder_of_other_samples_is_refused_and_left_alone(trained: Path, tmp_path: Path) -> None:
    config, run = config_in(trained), only_run(trained)
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


def made_by(monkeypatch: pytest.MonkeyPatch, commit: str) -> None:
    code = {"git_commit": commit, "git_dirty": False, "git_diff_sha256": None}
    monkeypatch.setattr("experiments.provenance.code_version", lambda: code)


def test_an_evaluation_takes_up_what_others_drew(
    trained: Path, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One part is drawn by another job, one by a first attempt that is then killed, the last one by the second."""
    measured = Measurement({"fd_efflite0": 1.0, "fid": float("inf")}, {}, {"fd_efflite0": [0.5, -0.5]})
    monkeypatch.setattr(evaluator, "evaluate_images", lambda *_: measured)
    config, run = config_in(trained), only_run(trained)
    made_by(monkeypatch, "a")
    share_of_evaluation(config, run, (2, 3))
    made_by(monkeypatch, "b")
    evaluation = run.prepare_evaluation(config)
    parts = evaluation_shards(evaluation, config)
    assert [span.start for span in parts.missing()] == [0, 8] and parts.done == 6

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "update", lambda self, **now: killed() if now.get("step", 0) > 6 + 8 + 4 else None)
        with pytest.raises(KeyboardInterrupt):
            evaluate(config, run)
    assert len(parts.missing()) == 1
    before = {path: path.stat().st_mtime_ns for path in parts.folder.glob("*.npz")}
    with monkeypatch.context() as patch:
        kept = {}
        patch.setattr(Shards, "remove", lambda self: kept.update({p: p.stat().st_mtime_ns for p in before}))
        evaluate(config, run)
    assert kept == before and len(before) == 2
    result = evaluation.result()
    assert result and result["provenance"]["git_commit"] == "b"
    shares = [(part["git_commit"], part["images"]) for part in result["provenance"]["sampled_by"]]
    assert shares == [("b", 16), ("a", 6)]
    assert caplog.messages.count("6 of the 22 images were drawn before by other code; the result names it") == 1
    assert all(part["backends"].keys() >= {"attention"} for part in result["provenance"]["sampled_by"])
    assert result and result["metrics"]["seconds_per_image"] > 0 and result["replicates"] == measured.replicates
    assert result["not_finite"] == ["fid"] and "fid" not in result["metrics"]
    with np.load(evaluation.samples_path) as file:
        assert np.array_equal(file["arr_0"], expected)


@pytest.mark.parametrize(
    ("key", "side", "kept", "said"),
    [
        ("inception_weights", 0, 0, "is not a file of PyTorch weights"),
        ("reference", 64, 8, "the reference toy of 64 x 64 pixels"),
        ("reference", 32, 3, "keeps 3 of its images, too few"),
        ("reference", 32, 8, "other weights, another preprocessing"),
    ],
)
def test_what_cannot_be_measured_costs_no_samples(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, side: int, kept: int, said: str
) -> None:
    file = tmp_path / "file"
    file.write_text("notes")
    if side:
        moments = {efficientnet.LAYER: (np.zeros(1280), np.eye(1280))}
        images = np.zeros((kept, side, side, 3), np.uint8)
        made_with = {efficientnet.LAYER: "another"}
        write_statistics(file, ReferenceStatistics("toy", 9, moments, images, side, made_with))
    monkeypatch.setattr(Shards, "fill", lambda *_: pytest.fail("sampled before the check"))
    config = config_in(trained)
    setattr(config.evaluation, key, str(file))
    config.evaluation.seed = 9
    with pytest.raises(ValueError, match=said):
        evaluate(config, only_run(trained))


def test_too_few_samples_are_not_drawn(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shards, "fill", lambda *_: pytest.fail("sampled before the check"))
    config = config_in(trained)
    config.evaluation.num_samples = 3
    with pytest.raises(ValueError, match="3 samples and .* are too few; 4 is least"):
        evaluate(config, only_run(trained))


def test_other_ranks_draw_and_do_not_measure(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = config_in(trained), only_run(trained)
    config.evaluation.seed = 5
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    evaluation = evaluate(config, run)
    parts = evaluation_shards(evaluation, config)
    assert [span.start for span in parts.missing()] == [0, 16] and evaluation.result() is None
    assert not evaluation.status_path.exists()


def test_helpers_draw_however_many_they_are(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Four devices, but two parts left: the helper must not take the number of processes for that of a training; nor
    look for the run elsewhere than in the folder that was named."""
    commands: list[tuple[list[str], dict[str, str]]] = []

    class Started:
        def __init__(self, command: list[str], env: dict[str, str]):
            commands.append((command, env))

        def poll(self) -> int:
            return 3

        def terminate(self) -> None: ...
        def wait(self) -> None: ...

    config, run = config_in(tmp_path / "other"), Run(tmp_path / "elsewhere" / "copy")
    shutil.copytree(only_run(trained).folder, run.folder)
    config.evaluation.seed, config.runtime.devices = 9, 4
    evaluation = run.prepare_evaluation(config)
    share_of_evaluation(config, run, (2, 3))
    monkeypatch.setattr(evaluation_module.subprocess, "Popen", Started)
    parts = evaluation_shards(evaluation, config)
    with evaluation_module._helpers(config, run, parts) as workers:
        assert workers == 2
        ((command, environment),) = commands
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.setenv(name, environment[name])
        with pytest.raises(SystemExit) as ended:
            main(command[3:])
        assert ended.value.code == 0
    assert [span.start for span in parts.missing()] == [0] and not (tmp_path / "other").exists()
    assert caplog.text.count("ended with exit code 3") == 1


@pytest.mark.parametrize(("gpus", "words", "devices"), [(0, (), 1), (2, (), 2), (0, ("runtime.devices=4",), 4)])
def test_an_evaluation_takes_no_more_devices_than_there_are(
    gpus: int, words: tuple[str, ...], devices: int, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training on four devices is evaluated wherever somebody sits."""
    shutil.copytree(only_run(trained).folder, tmp_path / "runs" / only_run(trained).id)
    run = only_run(tmp_path)
    config = config_in(tmp_path)
    config.runtime.devices = 4
    save_config(config, run.config_path)
    asked: list[int] = []
    monkeypatch.setattr(process, "device_of", lambda config: torch.device("cuda" if gpus else "cpu"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(evaluation_module, "evaluate", lambda config, run: asked.append(config.runtime.devices) or run)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", run.id, "--root", str(tmp_path), *words])
    assert ended.value.code == 0 and asked == [devices]


def test_workers_meet_without_drawing_twice(tmp_path: Path) -> None:
    drawn: list[int] = []

    def draw(span: range) -> tuple[np.ndarray, float]:
        drawn.append(span.start)
        return np.full((len(span), 2, 2, 3), span.start, np.uint8), 0.5

    parts = Shards(tmp_path, 40)
    parts.fill(draw, 0, 2, alone=True)
    assert drawn == [0, 16, 32]
    parts.fill(draw, 1, 2)
    assert drawn == [0, 16, 32, 8, 24] and not parts.missing()
    images, seconds = parts.gather()
    assert images[:, 0, 0, 0].tolist() == [i // 8 * 8 for i in range(40)] and seconds == 2.5
    np.savez(parts.path(range(8)), images=images[:8], seconds=0.5)  # as older versions wrote them
    assert parts.gather()[1] == 2.5 and parts.sampled_by() == [{"images": 40}]
    parts.path(range(16, 24)).unlink()
    parts.fill(draw, 1, 2)
    assert drawn[5:] == [16], "a worker that is through helps with what is missing"
    parts.remove()
    parts.fill(draw, 0, 2, needless=lambda: len(drawn) > 6)
    assert drawn[6:] == [0], "the others were gathered meanwhile"


def test_the_command_exports_and_shares(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ablate(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main(["sample", only_run(trained).id, "--root", str(trained), *map(str, words)])
        output = capsys.readouterr()
        return int(caught.value.code or 0), output.out + output.err

    words = ("--export", "npz", tmp_path, "--count", 10, "sampler.steps=1")
    assert ablate(*words, "--shard", "0/2")[1].count("others are missing") == 1
    for share in ("1/2", "0/2"):  # the second is told that another one has written them meanwhile
        code, said = ablate(*words, "--shard", share)
        assert code == 0 and "Wrote 10 images to" in said
        assert {path.name for path in tmp_path.iterdir()} == {"samples_10x32x32x3.npz", "samples.json"}
    for more, what in ((("--class", "flags"), "without --class"), (("--shard", "2/2"), "I/K")):
        code, said = ablate(*words, *more)
        assert code == 2 and what in said


@pytest.mark.parametrize("word", ["3", "2/2", "a/b", "-1/2", "1/0"])
def test_shares_are_written_i_of_k(word: str) -> None:
    assert parse_share("0/8") == (0, 8)
    with pytest.raises(UserError, match="I/K"):
        parse_share(word)
