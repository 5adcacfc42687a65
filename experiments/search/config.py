"""The search of good values for some keys of a run's configuration. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.validation import VALIDATION_TASK, is_validation
from lightning_modules.bounds import check_least
from lightning_modules.metrics.config import METRICS


@dataclass
class SearchAxisConfig:
    """One key that is searched: a choice among `values`, or a number from `low` to `high`."""

    key: str = ""
    values: list[Any] = field(default_factory=list)
    low: Any = None
    high: Any = None
    """Whole numbers when `low`, `high` and `step` are."""
    step: Any = None
    """Distance between candidates; none: any number (1 for whole numbers)."""
    log: bool = False
    """On a logarithmic scale; without `step`."""

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("search.space: every entry needs the 'key' that it searches.")
        bounds = all(isinstance(bound, int | float) for bound in (self.low, self.high))
        of_numbers = [number for number in (self.low, self.high, self.step) if number is not None]
        if bool(self.values) == bounds or (bounds and not self.low < self.high) or (self.values and of_numbers):
            raise ValueError(f"search.space: {self.key} needs either 'values', or numbers 'low' < 'high'.")
        if self.step is not None and not (isinstance(self.step, int | float) and self.step > 0):
            raise ValueError(f"search.space: {self.key} has step={self.step}; it must be a number above 0.")
        if self.log and (self.step is not None or not bounds or self.low <= 0):
            raise ValueError(f"search.space: {self.key} with log needs 0 < 'low' < 'high' and no 'step'.")

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are tried."""
        return all(isinstance(bound, int) for bound in (self.low, self.high, 1 if self.step is None else self.step))


@dataclass
class SearchConfig:
    """Trials, and how they are proposed and judged. An empty `space` means no search."""

    space: list[SearchAxisConfig] = field(default_factory=list)
    """What is searched; empty = nothing."""
    metric: str = "fd_efflite0"
    """What the best trial is best at: a metric of the evaluation, or one of the training such as val/loss. Of the
    embedded network's features and with Inception's weights named it is Inception's instead (fid), as in tables."""
    trials: int = 12
    """How many points are tried, `first` among them."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How points are proposed: by Optuna's tree-structured Parzen estimator, or at random."""
    pruner: Literal["none", "median", "halving"] = "none"
    """Ends trainings early that do badly by their validation loss; for searches over training keys."""
    seed: int = 0
    """Of the proposals."""
    selection_seed: int = 1000
    """`evaluation.seed` of the trials: other samples than those that the chosen values are then judged by."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Further keys that trials set, such as fewer samples."""
    first: list[Any] = field(default_factory=list)
    """Points that are tried before all others, each a mapping of every searched key to its value."""
    jobs: int = 1
    """Slurm tasks that work on one search at once."""

    def __post_init__(self) -> None:
        check_least(self, "search", trials=1, jobs=1)
        if self.metric not in METRICS or METRICS[self.metric].better == "none":
            raise ValueError(f"search.metric={self.metric} is not a metric that is better lower or higher.")
        keys = {axis.key for axis in self.space}
        for point in self.first if self.space else ():
            if not isinstance(point, dict) or set(point) != keys:
                raise ValueError(f"search.first: {point} must give a value to each of {', '.join(sorted(keys))}.")
        if self.space and self.pruner != "none" and not self.trains:
            raise ValueError(f"search.pruner={self.pruner} ends trainings, but nothing of the training is searched.")
        if changing := ", ".join(sorted(keys & VALIDATION_TASK)):
            why = f"trials with another {changing} are validated on another task, so their losses say nothing"
            if is_validation(self.metric):
                raise ValueError(f"search.metric={self.metric}: {why}; name a metric of samples, such as fd_efflite0.")
            if self.pruner != "none":
                raise ValueError(f"search.pruner={self.pruner}: {why}; set search.pruner=none.")

    @property
    def trains(self) -> bool:
        """Whether every trial is a training of its own."""
        return any(axis.key.partition(".")[0] not in ("sampler", "evaluation") for axis in self.space)

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """As Optuna calls it."""
        return "minimize" if METRICS[self.metric].better == "lower" else "maximize"

    @property
    def evaluates(self) -> bool:
        """Whether the metric is one of samples, not of the training alone."""
        return not self.metric.startswith(("train/", "val/"))
