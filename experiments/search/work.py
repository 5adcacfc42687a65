"""The folder of a search: outputs/searches/<search_id>/ with config.yaml, journal.log, trials/000/ ... and result.json.

Every trial is a folder that one process at a time owns (see `experiments.work`), with params.json (what was proposed)
and result.json (what came of it). Optuna's journal proposes; what is done is told by these files alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import atomic_write_json, read_json
from experiments.status import Status
from experiments.work import Work


class Trial(Work):
    """One trial. Its result: metrics, number, params, outcome ("complete", "pruned" or "failed") and reason."""

    @property
    def params_path(self) -> Path:
        """What Optuna proposed."""
        return self.folder / "params.json"

    def proposal(self) -> tuple[int, dict[str, Any]] | None:
        """Optuna's number of the trial and the values it proposed; None as long as it was not asked."""
        try:
            record = read_json(self.params_path)
        except FileNotFoundError:
            return None
        return record["number"], record["params"]

    def write_proposal(self, number: int, params: Mapping[str, Any]) -> None:
        """Note what Optuna proposed: whoever takes the trial over works on the same."""
        atomic_write_json(self.params_path, {"number": number, "params": dict(params)})


class Search(Work):
    """A search. Its result: metrics of the best trial, `chosen` values, `run_id` and `eval_id` of what they lead to,
    all `trials`, and whether one of these has trained that run (`trained_by_trial`)."""

    def beginning(self) -> Work:
        """The making of Optuna's study and of the places for trials, which one process does."""
        return Work(self.folder / "study")

    @property
    def journal_path(self) -> Path:
        """Optuna's journal; `optuna-dashboard` opens it."""
        return self.folder / "journal.log"

    def create_trials(self, count: int) -> None:
        """Make the places for so many trials."""
        for number in range(count):
            (self.folder / "trials" / f"{number:03d}").mkdir(parents=True, exist_ok=True)

    def trials(self) -> list[Trial]:
        """All places for trials, in order."""
        return [Trial(folder) for folder in sorted((self.folder / "trials").glob("[0-9]*"))]

    def device_seconds(self) -> float:
        """Of all trials so far, with the trainings and evaluations that they did, all attempts together."""
        if result := self.result():
            return sum(trial.get("device_seconds", 0.0) for trial in result["trials"])
        return sum(trial.status().device_seconds for trial in self.trials())

    def inspect(self) -> Status:
        """As `Work.inspect`, with finished trials as steps; running while any trial is worked on, failed where a trial
        is left that ended a process."""
        status = super().inspect()
        trials = self.trials()
        done = sum(trial.result_path.exists() for trial in trials)
        status = replace(status, phase="search", step=done, max_steps=len(trials))
        with suppress(UserError):  # a damaged status, which its trial is shown with
            status = replace(status, device_seconds=self.device_seconds())
        if status.state in ("done", "failed", "running"):
            return status
        begun = [trial.inspect() for trial in trials if not trial.result_path.exists()]
        if running := [item for item in begun if item.state == "running"]:
            newest = max(running, key=lambda item: item.updated_at)
            status = replace(status, state="running", updated_at=newest.updated_at)
            return replace(status, host=newest.host, pid=newest.pid, job=newest.job)
        if failed := next((item for item in begun if item.state == "failed"), None):
            return replace(status, state="failed", cause=failed.cause, reason=failed.reason)
        started = done or any(item.state != "missing" for item in begun)
        return replace(status, state="stopped" if started else status.state)

    def clear_failure(self) -> None:
        """Forget failed trials, too: where values failed, or were given up, the place is free for a new proposal."""
        super().clear_failure()
        for trial in self.trials():
            given_up = trial.inspect().cause == "repeated"
            trial.clear_failure()
            if given_up or (trial.result() or {}).get("outcome") == "failed":
                trial.result_path.unlink(missing_ok=True)
                trial.params_path.unlink(missing_ok=True)
