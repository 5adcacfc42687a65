"""A result tells of every attempt whose steps are in its weights, and of every process that drew its samples."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from experiments.config import load_config
from experiments.history import trained_by
from experiments.run import train
from experiments.store import Run
from tests.experiments.configs import tiny_preset


def code(letter: str) -> dict[str, Any]:
    return {"git_commit": 40 * letter, "git_dirty": False, "git_diff_sha256": None}


class Kill(L.Callback):
    """Ends an attempt within a step, without a checkpoint of it."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


def test_attempts_of_several_versions_of_the_code_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed after the checkpoint of step 2, again before its first checkpoint, and then trained to the end."""
    runtime = {"checkpoint_every": 2, "val_every": 6}
    config = load_config(tiny_preset(tmp_path, "tiny", trainer={"max_steps": 6}, runtime=runtime))
    with caplog.at_level(logging.WARNING, "ablate"):
        for letter, kills in (("a", [Kill(3)]), ("b", [Kill(3)]), ("c", [])):
            monkeypatch.setattr("experiments.provenance.code_version", partial(code, letter))
            try:
                run = train(config, callbacks=kills)
            except (KeyboardInterrupt, SystemExit):  # Lightning's answer to it
                assert kills
    told = [line for line in caplog.messages if "goes on from step" in line]
    names = [f"code version {10 * 'a'} then, {10 * new} now" for new in "bc"]
    assert told == [f"{run.id} goes on from step 2 with other means: {name}." for name in names]
    origin = json.loads(run.result_path.read_text())["provenance"]
    assert (origin["git_commit"], origin["attempts"]) == (40 * "c", 3)
    kept = [(part["git_commit"][0], part["first_step"], part["last_step"]) for part in origin["trained_by"]]
    assert kept == [("a", 0, 2), ("c", 2, 6)]
    assert {part["precision"] for part in origin["trained_by"]} == {"fp32"}
    assert all("selective_scan" in part["backends"] for part in origin["trained_by"])
    thrown_away = json.loads((run.attempts_folder / "000002.json").read_text())
    assert (thrown_away["git_commit"], thrown_away["first_step"], thrown_away["last_step"]) == (40 * "b", 2, 2)


def test_one_attempt_needs_no_list(tmp_path: Path) -> None:
    run = train(load_config(tiny_preset(tmp_path, "tiny")))
    assert "trained_by" not in json.loads(run.result_path.read_text())["provenance"]
    assert [path.name for path in run.attempts_folder.iterdir()] == ["000001.json"]


@pytest.mark.parametrize(
    ("begun", "step", "shares"),
    [
        ([], 0, []),
        ([], 5, [(None, 0, 5)]),  # of before there were records
        ([(3, 4)], 9, [(None, 0, 4), (3, 4, 9)]),
        ([(1, 0), (2, 4), (3, 4), (4, 6)], 9, [(1, 0, 4), (3, 4, 6), (4, 6, 9)]),
        ([(1, 0), (2, 4), (3, 0)], 9, [(3, 0, 9)]),  # its checkpoint was removed
        ([(1, 0), (2, 9)], 9, [(1, 0, 9)]),  # the last one wrote the result alone
    ],
)
def test_the_steps_of_a_run_are_shared_out(
    tmp_path: Path, begun: list[tuple[int, int]], step: int, shares: list[tuple[int | None, int, int]]
) -> None:
    run = Run(tmp_path)
    run.attempts_folder.mkdir()
    for attempt, first in begun:
        record = {"attempt": attempt, "first_step": first, "last_step": 99}
        (run.attempts_folder / f"{attempt:06d}.json").write_text(json.dumps(record))
    found = trained_by(run, step)
    assert [(part.get("attempt"), part["first_step"], part["last_step"]) for part in found] == shares
