"""The images of an evaluation in parts: drawn once by many processes, kept after a kill, and not drawn in vain."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import evaluation as evaluation_module
from experiments import evaluator, process
from experiments.config import save_config
from experiments.evaluation import evaluate, evaluation_shards
from experiments.export import share_of_evaluation
from experiments.shards import Shards
from experiments.store import Evaluation, Run
from lightning_modules.metrics import efficientnet
from lightning_modules.metrics.measurement import Measurement
from lightning_modules.metrics.statistics import ReferenceStatistics, write_statistics
from tests.conftest import Ablate
from tests.experiments.configs import config_in, run_under

pytestmark = pytest.mark.usefixtures("small_parts")


def made_by(monkeypatch: pytest.MonkeyPatch, commit: str) -> None:
    code = {"git_commit": commit, "git_dirty": False, "git_diff_sha256": None}
    monkeypatch.setattr("experiments.provenance.code_version", lambda: code)


def test_an_evaluation_takes_up_what_others_drew(
    random_weights: Path, undivided: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One part is drawn by another job, one by a first attempt that is then killed, the last one by the second."""
    measured = Measurement({"fd_efflite0": 1.0, "fid": float("inf")}, {}, {"fd_efflite0": [0.5, -0.5]})
    monkeypatch.setattr(evaluator, "evaluate_images", lambda *_: measured)
    config, run = config_in(random_weights), run_under(random_weights)
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
        assert np.array_equal(file["arr_0"], undivided)


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
    random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, side: int, kept: int, said: str
) -> None:
    file = tmp_path / "file"
    file.write_text("notes")
    if side:
        moments = {efficientnet.LAYER: (np.zeros(1280), np.eye(1280))}
        images = np.zeros((kept, side, side, 3), np.uint8)
        made_with = {efficientnet.LAYER: "another"}
        write_statistics(file, ReferenceStatistics("toy", 9, moments, images, side, made_with))
    monkeypatch.setattr(Shards, "fill", lambda *_: pytest.fail("sampled before the check"))
    config = config_in(random_weights)
    setattr(config.evaluation, key, str(file))
    config.evaluation.seed = 9
    with pytest.raises(ValueError, match=said):
        evaluate(config, run_under(random_weights))


def test_too_few_samples_are_not_drawn(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shards, "fill", lambda *_: pytest.fail("sampled before the check"))
    config = config_in(random_weights)
    config.evaluation.num_samples = 3
    with pytest.raises(ValueError, match="3 samples and .* are too few; 4 is least"):
        evaluate(config, run_under(random_weights))


def test_other_ranks_draw_and_do_not_measure(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = config_in(random_weights), run_under(random_weights)
    config.evaluation.seed = 5
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    evaluation = evaluate(config, run)
    parts = evaluation_shards(evaluation, config)
    assert [span.start for span in parts.missing()] == [0, 16] and evaluation.result() is None
    assert not evaluation.status_path.exists()


def test_helpers_draw_however_many_they_are(
    random_weights: Path, tmp_path: Path, ablate: Ablate, monkeypatch: pytest.MonkeyPatch, caplog
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
    shutil.copytree(run_under(random_weights).folder, run.folder)
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
        assert ablate(*command[3:])[0] == 0
    assert [span.start for span in parts.missing()] == [0] and not (tmp_path / "other").exists()
    assert caplog.text.count("ended with exit code 3") == 1


@pytest.mark.parametrize(("gpus", "words", "devices"), [(0, (), 1), (2, (), 2), (0, ("runtime.devices=4",), 4)])
def test_an_evaluation_takes_no_more_devices_than_there_are(
    gpus: int,
    words: tuple[str, ...],
    devices: int,
    random_weights: Path,
    tmp_path: Path,
    ablate: Ablate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training on four devices is evaluated wherever somebody sits."""
    shutil.copytree(run_under(random_weights).folder, tmp_path / "runs" / run_under(random_weights).id)
    run = run_under(tmp_path)
    config = config_in(tmp_path)
    config.runtime.devices = 4
    save_config(config, run.config_path)
    asked: list[int] = []
    monkeypatch.setattr(process, "device_of", lambda config: torch.device("cuda" if gpus else "cpu"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(evaluation_module, "evaluate", lambda config, run: asked.append(config.runtime.devices) or run)
    assert ablate("evaluate", run.id, "--root", tmp_path, *words)[0] == 0 and asked == [devices]
