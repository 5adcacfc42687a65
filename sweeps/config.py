"""The schema of a sweep definition (`sweeps/definitions/*.yaml`; explained in `sweeps/README.md`)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from omegaconf import MISSING, OmegaConf

from experiments.overrides import flat_sections
from sweeps.sbatch_options import check_options

TIME = re.compile(
    r"(?P<minutes>\d+)(:(?P<seconds>\d+))?|(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)|"
    r"(?P<days>\d+)-(?P<dh>\d+)(:(?P<dm>\d+)(:(?P<ds>\d+))?)?"
)
"""The limits of a job that Slurm reads."""
ENDLESS = ("UNLIMITED", "INFINITE")
MEMORY = re.compile(r"\d+([KMGT]B?)?", re.IGNORECASE)


def time_limit(text: str) -> int | None:
    """Seconds of a limit as Slurm writes it; None where it is none, or not known: "", "0", "UNLIMITED".

    Raises:
        ValueError: Slurm would not read it.
    """
    if not text or text.upper() in ENDLESS:
        return None
    if not (found := TIME.fullmatch(text)):
        raise ValueError(
            "must be a time as Slurm reads it: MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS, "
            'DAYS-HOURS:MINUTES or DAYS-HOURS:MINUTES:SECONDS, e.g. "2:00:00".'
        )
    units = {"days": 86400, "dh": 3600, "h": 3600, "dm": 60, "m": 60, "minutes": 60, "ds": 1, "s": 1, "seconds": 1}
    return sum(int(found[name] or 0) * unit for name, unit in units.items()) or None


def _check_limit(key: str, text: Any, signal_seconds: Any) -> None:
    """Raise ValueError if a job of this limit could not run, or not be told in time to save."""
    try:
        limit = time_limit(text if isinstance(text, str) else "")
    except ValueError as error:
        raise ValueError(f"resources.{key}={text} {error}") from error
    if limit and isinstance(signal_seconds, int | str) and limit <= int(signal_seconds):
        raise ValueError(
            f"resources.{key}={text} is {limit} s, and runs are told to save {signal_seconds} s before the limit "
            "(resources.signal_seconds): none would get anywhere; raise the one or lower the other."
        )


@dataclass
class PaperConfig:
    """Where the table stands in the literature."""

    system: str = ""
    """Empty: no paper has this table."""
    table: str = ""
    """Table or figure, as the paper numbers it."""
    citation: str = ""
    url: str = ""


@dataclass
class ResourcesConfig:
    """What one run needs of a cluster; empty and 0 leave the choice to the site's defaults."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    time: str = ""
    """Limit of one job, as Slurm writes it ("4:00:00"); a run that needs longer is requeued and goes on."""
    nodes: int = 1
    gpus: int = 0
    """GPUs, and processes, per node; 0 = a run on CPUs."""
    gpu_type: str = ""
    """Of which type, as the site calls it, e.g. "a100"."""
    cpus: int = 0
    """CPUs per process."""
    memory: str = ""
    """Per node, e.g. "64G"."""
    constraint: str = ""
    signal_seconds: int = 120
    """How long before the time limit a run is told to save and make room."""
    max_attempts: int = 20
    """A run that was started this often without getting done is left failed."""
    peak_tflops: float = 312.0
    """Of one GPU in the run's precision, for estimates only (A100, bf16 without sparsity)."""
    efficiency: float = 0.25
    """Share of the peak that a training reaches, assumed until finished trainings tell."""
    setup: list[str] = field(default_factory=list)
    """Lines of shell that run before python: modules, environments."""
    launch: list[str] = field(default_factory=list)
    """Words of a command that python is started by, e.g. [apptainer, exec, --nv, image.sif]."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Further options of sbatch -> value, null for none, e.g. {reservation: vision, exclude: "node[01-03]"}."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """Where given, evaluations are jobs of their own, on one node, that wait for their trainings; what they need
    instead of the above, e.g. {gpus: 1, time: "1:00:00"}."""
    report: dict[str, Any] = field(default_factory=dict)
    """What the report's job asks for beside account, qos and partition, or in their place, e.g. {partition: cpu}."""

    def __post_init__(self) -> None:
        for key, least in (("nodes", 1), ("gpus", 0), ("cpus", 0), ("signal_seconds", 1), ("max_attempts", 1)):
            value = getattr(self, key)
            if isinstance(value, int) and value < least:
                raise ValueError(f"resources.{key}={value} must be at least {least}.")
        if isinstance(self.peak_tflops, int | float) and not self.peak_tflops > 0:
            raise ValueError(f"resources.peak_tflops={self.peak_tflops} must be above 0.")
        if isinstance(self.efficiency, int | float) and not 0 < self.efficiency <= 1:
            raise ValueError(f"resources.efficiency={self.efficiency} must be a share of the peak, in (0, 1].")
        if isinstance(self.memory, str) and self.memory and not MEMORY.fullmatch(self.memory):
            raise ValueError(
                f'resources.memory={self.memory} must be a size as Slurm reads it, e.g. "64G" or "64000M".'
            )
        _check_limit("time", self.time, self.signal_seconds)
        for job, signal_seconds in (("evaluation", self.signal_seconds), ("report", 0)):
            own = getattr(self, job) if isinstance(getattr(self, job), dict) else {}
            limit = own.get("time", "")
            if not isinstance(limit, str):  # which YAML made of it: 3600 of 1:00:00
                raise ValueError(f'resources.{job}.time={limit} must be text, in quotes: {{time: "1:00:00"}}.')
            _check_limit(f"{job}.time", limit, own.get("signal_seconds", signal_seconds))
        check_options(self.sbatch if isinstance(self.sbatch, dict) else {})
        if isinstance(self.launch, list) and not all(self.launch):
            raise ValueError("resources.launch: every word must have letters in it.")

    def of_evaluation(self) -> ResourcesConfig | None:
        """What an evaluation needs where it is a job of its own; None where the training's job does it, too.

        Raises:
            OmegaConfBaseException, ValueError: a key that does not exist, or a value that cannot be.
        """
        return self._job(self.evaluation) if self.evaluation else None

    def of_report(self) -> ResourcesConfig:
        """What the report's job needs: of the rest, what says where it may run. Raises as `of_evaluation`."""
        kept = {
            key: getattr(self, key) for key in ("partition", "account", "qos", "gpu_type", "sbatch", "setup", "launch")
        }
        return ResourcesConfig(**kept, signal_seconds=1)._job(self.report)

    def _job(self, own: dict[str, Any]) -> ResourcesConfig:
        """This, on one node, with what a job of another kind has of its own."""
        base = OmegaConf.structured(replace(self, nodes=1, evaluation={}, report={}))
        result = OmegaConf.to_object(OmegaConf.merge(base, own))
        assert isinstance(result, ResourcesConfig)
        return result


@dataclass
class PartConfig:
    """What one scale sets in some of its cells: under the axes, over the rest of the scale."""

    when: dict[str, Any] = MISSING
    """Axis -> labels."""
    preset: str = ""
    """In place of the scale's."""
    set: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.set = flat_sections(self.set)


@dataclass
class ScaleConfig:
    """How large the sweep is run: `demo` on a laptop, `small` on one GPU, `paper` as published."""

    preset: str = MISSING
    overrides: dict[str, Any] = field(default_factory=dict)
    """Dotted keys of the run's configuration, over the preset and under the axes."""
    cells: list[PartConfig] = field(default_factory=list)
    """Presets and settings of some of the cells; the later of two that fit counts."""
    seeds: list[int] = field(default_factory=lambda: [0])
    only: dict[str, Any] = field(default_factory=dict)
    """Axis -> the labels taken at this scale; an axis that is not named is taken whole."""
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)

    def __post_init__(self) -> None:
        self.overrides = flat_sections(self.overrides)


@dataclass
class ValueConfig:
    """One value of an axis, written out: a bare value stands for `{value: it}`."""

    value: Any = None
    """Goes to the axis' key."""
    label: str = ""
    """Its name in tables and file names; by default the value itself."""
    set: dict[str, Any] = field(default_factory=dict)
    """Further dotted keys that belong to this value."""
    when: dict[str, Any] = field(default_factory=dict)
    """Earlier axis -> labels: elsewhere this value does not exist. Values of disjoint conditions may share a label."""

    def __post_init__(self) -> None:
        self.set = flat_sections(self.set)


@dataclass
class AxisConfig:
    """One thing that is varied."""

    name: str = MISSING
    values: list[Any] = MISSING
    """Bare values or `ValueConfig` mappings."""
    key: str = ""
    """Dotted key of the run's configuration; may be left out if every value has its own `set`."""
    when: dict[str, Any] = field(default_factory=dict)
    """Earlier axis -> labels: elsewhere this axis does not exist."""


@dataclass
class ExcludeConfig:
    """Combinations left out, and why: the reason is shown in plans and tables."""

    when: dict[str, Any] = MISSING
    reason: str = MISSING


@dataclass
class EqualComputeConfig:
    """Cells that train for as many steps as the training FLOPs of another cell pay for."""

    when: dict[str, Any] = MISSING
    """Axis -> labels: the cells whose steps follow."""
    to: dict[str, Any] = MISSING
    """Axis -> label: where the cell that they follow differs from them."""


@dataclass
class SweepConfig:
    """A named sweep: what is varied, at which scales, and how its table looks."""

    name: str = MISSING
    title: str = MISSING
    paper: PaperConfig = field(default_factory=PaperConfig)
    reproduces: str = MISSING
    """One sentence: what question the table answers."""
    scales: dict[str, ScaleConfig] = MISSING
    axes: list[AxisConfig] = field(default_factory=list)
    zip: list[list[str]] = field(default_factory=list)
    """Groups of axes that advance together instead of being multiplied."""
    exclude: list[ExcludeConfig] = field(default_factory=list)
    measure: Literal["evaluation", "benchmark"] = "evaluation"
    """What a cell holds: samples of a trained run and their metrics, or a timing of what `benchmark.*` describes."""
    in_turns: list[str] = field(default_factory=list)
    """Axes whose cells one process measures in turns, so that their ratios survive a machine that is slow for a while;
    for `measure: benchmark` only."""
    equal_compute: EqualComputeConfig | None = None
    search: dict[str, Any] = field(default_factory=dict)
    """Values that are tuned for each cell before it is run: `search.*` of the run's configuration
    (experiments/search/config.py)."""
    report: dict[str, Any] = field(default_factory=dict)
    """Layout of the table; see reports/README.md."""
