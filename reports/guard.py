"""The comparability guard: rows that differ in anything but what the sweep declares are named, with the difference.

Facts are read back from what the runs stored (configuration, steps, fingerprints, code version, kernels, protocol), not
from what was planned, so that an edited file, an old result or another machine shows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from experiments.identity import NOT_SEMANTIC
from experiments.provenance import CODE, PRECISION, PROCESSES, kinds, makers
from experiments.resolve import SIZES
from experiments.validation import VALIDATION_TASK
from reports.aggregate import Row, select
from reports.records import Record

AS_PLANNED = "as planned"
ISO = 0.05
"""Relative deviation of parameters or FLOPs from the baseline's beyond which a row is not called equal in size."""
NOT_COMPARED = ("runtime.", "preset", "seed", "evaluation.bootstrap", "search.")
"""Configuration that changes no result (what a search chose stands in the keys that it searched), and the seed, which a
row averages over and which is held against the plan."""
SIZES_OF = {part: tuple(f"generator.{size}" for size in sizes) for part, sizes in SIZES.items()}
FOLLOWS = {
    "data.": ("data.fingerprint", "reference images", *SIZES_OF["data"]),
    "tokenizer.": ("tokenizer.fingerprint", *SIZES_OF["tokenizer"]),
    "text_encoder.": SIZES_OF["text_encoder"],
    "trainer.patience": ("trainer.max_steps",),
}
"""Facts that follow from any key of a section, or from one key: declared along with it."""

STEPS = "sampler.steps"
"""Forward passes an image, which mean the same in all samplers of one objective."""
MISSING = "not recorded"
AND = " and "
Facts = dict[str, tuple[str, ...]]
"""Name -> value, or values where the measurement is not of one piece."""
EVALUATED, MEASURED = f"{CODE} of the evaluation", f"{CODE} of the metrics"
SAME, SAMPLED = "that of the training", "that of the evaluation"
START = "trainer.init_fingerprint"
DECODING = frozenset({"selective_state_update", "depthwise_conv1d_update", "mamba2_decode", "transformer_decode"})
"""Operations that a training runs for its sample grids alone."""


@dataclass(frozen=True)
class Flag:
    """One fact in which one row stands apart."""

    row: int
    fact: str
    value: str
    usual: str = ""
    """What the other rows have; "" = the row's own measurement is of several values."""
    seeds: tuple[int, ...] = ()
    """Those that it is true of, where it is not true of all seeds of the row."""
    declared: bool = False
    """The sweep varies it on purpose: it sets apart what is validated, and nothing else."""

    @property
    def text(self) -> str:
        """The difference in words."""
        if not self.usual:
            return f"mixed {self.fact}: {self.value}"
        seeds = f" in seed {', '.join(map(str, self.seeds))}" if self.seeds else ""
        return f"{self.fact} is {self.value}{seeds}, elsewhere {self.usual}"


@dataclass(frozen=True)
class OneFactor:
    """How one row differs from the baseline row."""

    row: int
    changes: Mapping[str, tuple[Any, Any]]
    """Configuration key -> (baseline's value, this row's value)."""
    parameters: float | None
    """Relative deviation of the parameter count; None = not known."""
    flops: float | None

    @property
    def text(self) -> str:
        """The statement in words."""
        if not self.changes:
            return "same configuration as the baseline"
        changed = ", ".join(f"{key}: {a} → {b}" for key, (a, b) in self.changes.items())
        return f"{len(self.changes)} settings differ: {changed}" if len(self.changes) > 1 else f"only {changed}"


def facts(record: Record) -> dict[str, str]:
    """What was true of one measurement, as text by name; what was recorded goes before what was configured."""
    return {name: AND.join(values) for name, values in _facts(record).items()}


def _facts(record: Record) -> Facts:
    """As `facts`: several values of what changed between attempts at a training or processes that drew samples."""
    # An empty text says nothing, and older configurations lack keys that came later.
    result: Facts = {key: (_text(value),) for key, value in record.config.items() if _compared(key) and value != ""}
    run, protocol = record.run_result, record.protocol
    origin = run.get("provenance", {})
    of_evaluation = record.evaluation_result.get("provenance", {})
    of_metrics = record.evaluation_result.get("measured_again") or of_evaluation  # the same samples, measured later
    trained, evaluated, measured = map(_made_with, (makers(origin), makers(of_evaluation), [of_metrics]))
    seed = origin.get("seed", record.config.get("seed"))
    recorded = {
        "seed": None if seed is None else AS_PLANNED if seed == record.seed else f"{seed} (planned: {record.seed})",
        "trainer.max_steps": f"{run['step']} (stopped early)" if "stopped_early" in run else run.get("step"),
        "data.fingerprint": _short(origin.get("data_fingerprint")),
        "tokenizer.fingerprint": _short(origin.get("tokenizer_fingerprint")),
        "evaluation.num_samples": protocol.get("num_samples"),
        "reference images": _short(protocol.get("reference_fingerprint")),
        "feature extractor": _short(protocol.get("extractor_sha256")),
        "resize": protocol.get("resize"),
        "threads": protocol.get("threads"),
    }
    recorded |= {f"sampler.{key}": value for key, value in protocol.get("sampler", {}).items()}
    result |= {key: (_text(value),) for key, value in recorded.items() if value is not None}
    for name, values in trained.items():
        fact = "trainer.precision" if name == PRECISION else name
        result[fact] = values or result.get(fact, ())
        if name != PROCESSES:  # which share the images of an evaluation, and change none
            result[f"{name} of the evaluation"] = _or_same(evaluated[name], values, SAME)
        if name not in (PROCESSES, PRECISION):
            result[f"{name} of the metrics"] = _or_same(measured[name], evaluated[name], SAMPLED)
    result |= {f"kernel {op}": names for op, names in kernels_of(makers(origin)).items() if op not in DECODING}
    result |= {f"kernel {op} of the evaluation": names for op, names in kernels_of(makers(of_evaluation)).items()}
    return {name: values for name, values in result.items() if values}


def _made_with(parts: Sequence[Mapping[str, Any]]) -> Facts:
    """What the makers of a training, an evaluation or a measurement ran with, by fact, each value once."""
    found = [kinds(part) for part in parts]
    result = {name: tuple(dict.fromkeys(value for kind in found if (value := kind[name]))) for name in found[0]}
    if result[CODE] and not all(kind[CODE] for kind in found):  # what is not recorded is of an earlier version
        result[CODE] = (MISSING, *result[CODE])
    return result


def kernels_of(parts: Sequence[Mapping[str, Any]]) -> Facts:
    """Back ends by operation: several where no part ran all that others did; one that ended early ran fewer."""
    ran: dict[str, dict[frozenset[str], None]] = {}
    for part in parts:
        for op, names in part.get("backends", {}).items():
            ran.setdefault(op, {})[frozenset(names.split("+"))] = None
    widest = {op: max(found, key=len) for op, found in ran.items()}
    whole = {op: [widest[op]] if all(names <= widest[op] for names in found) else found for op, found in ran.items()}
    return {op: tuple("+".join(sorted(names)) for names in found) for op, found in whole.items()}


def _or_same(later: tuple[str, ...], earlier: tuple[str, ...], same: str) -> tuple[str, ...]:
    """`same` where what comes later was made with what made the earlier, or with one of them, which is said there."""
    return (same,) if later == earlier or (len(later) == 1 and later[0] in earlier) else later


def guard(
    rows: Sequence[Row],
    declared: Collection[str],
    baseline: Mapping[str, str],
    alike: Mapping[tuple[str, str], frozenset[str]] = MappingProxyType({}),
) -> list[Flag]:
    """Every fact in which a measured row stands apart from the most common value (in a tie, the baseline's), or is not
    of one piece: trained or sampled in part by other code, in another precision, on other hardware. What the sweep
    varies is none, but for what changes the task of a validation.

    Args:
        declared: the configuration keys that the sweep varies on purpose.
        alike: generator and code version -> all versions that give its numbers.
    """
    by_row = [[_facts(record) for record in row.measured] for row in rows]
    _unify_code(by_row, alike)
    _forgive_starts(rows, by_row)
    reference = [id(row) for row in select(rows, baseline)] if baseline else []
    names = dict.fromkeys(name for found in by_row for fact in found for name in fact)
    flags = []
    for name in names:
        mixed = [dict.fromkeys(fact[name] for fact in found if len(fact.get(name, ())) > 1) for found in by_row]
        flags += [Flag(index, name, AND.join(values)) for index, found in enumerate(mixed) for values in found]
        meant = _is_declared(name, declared)
        if meant and name not in VALIDATION_TASK:
            continue
        single = [[fact.get(name, (MISSING,)) for fact in found] for found in by_row]
        values = [sorted({values[0] for values in found if len(values) == 1}) for found in single]
        if meant or name.startswith("kernel ") or "benchmark.name" in declared:
            # An operation that a row does not use is no difference, nor is a part that its benchmark does not time, or
            # a key that its objective does not have.
            values = [[value for value in found if value != MISSING] for found in values]
        counts = Counter(value for found in values for value in found)
        if len(counts) < 2:
            continue
        favoured = {v for row, found in zip(rows, values, strict=True) if id(row) in reference for v in found}
        usual = max(counts, key=lambda value: (counts[value], value in favoured))
        for index, found in enumerate(values):
            if other := [value for value in found if value != usual]:
                seeds = [
                    record.seed
                    for record, value in zip(rows[index].measured, single[index], strict=True)
                    if len(value) == 1 and value[0] in other
                ]
                some = tuple(seeds) if len(seeds) < len(by_row[index]) else ()
                flags.append(Flag(index, name, AND.join(other), usual, some, meant))
    return flags


def _unify_code(by_row: Sequence[Sequence[Facts]], alike: Mapping[tuple[str, str], frozenset[str]]) -> None:
    """Of code versions that are known to be the same, name the one that most measurements here were made with."""
    found = [fact for row in by_row for fact in row if CODE in fact]
    used = Counter(code for fact in found for code in fact[CODE])
    for fact in found:
        (generator,) = fact.get("generator.name", ("",))
        for name in {CODE, EVALUATED, MEASURED} & fact.keys():
            same = [alike.get((generator, code)) or {code} for code in fact[name]]
            fact[name] = tuple(dict.fromkeys(max(sorted(known), key=lambda code: used[code]) for known in same))
        evaluated = fact[CODE] if fact.get(EVALUATED) == (SAME,) else fact.get(EVALUATED, ())
        if MEASURED in fact:
            fact[MEASURED] = _or_same(fact[MEASURED], evaluated, SAMPLED)
        if EVALUATED in fact:
            fact[EVALUATED] = _or_same(fact[EVALUATED], fact[CODE], SAME)


def _forgive_starts(rows: Sequence[Row], by_row: Sequence[Sequence[Facts]]) -> None:
    """Trainings of different seeds may start from runs of these seeds: starts are compared within a seed alone."""
    of_seed: dict[int, Counter[tuple[str, ...]]] = {}
    pairs = [
        (record.seed, fact)
        for row, found in zip(rows, by_row, strict=True)
        for record, fact in zip(row.measured, found, strict=True)
        if START in fact
    ]
    for seed, fact in pairs:
        of_seed.setdefault(seed, Counter())[fact[START]] += 1
    for seed, fact in pairs:
        if fact[START] == of_seed[seed].most_common(1)[0][0]:
            fact[START] = ("that of its seed",)


def one_factor(rows: Sequence[Row], baseline: Mapping[str, str]) -> list[OneFactor]:
    """How each row differs from the baseline row that agrees with it on the other axes; [] without a baseline."""
    result, bases = [], select(rows, baseline) if baseline else []
    for index, row in enumerate(rows):
        if (base := baseline_of(row, bases, baseline)) is None or base is row:
            continue
        ours, theirs = _stored(row), _stored(base)
        if not ours or not theirs:  # before one of them has run: what is planned for both
            ours, theirs = _planned(row), _planned(base)
        keys = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        renamed = tuple(key.removesuffix("name") for key in keys if key.endswith(".name"))
        keys = [k for k in keys if not k.startswith(renamed) or (k in ours and k in theirs)]  # others bring their own
        changes = {key: (theirs.get(key, "-"), ours.get(key, "-")) for key in keys}
        deviations = [_relative(row, base, metric) for metric in ("parameters", "flops")]
        result.append(OneFactor(index, changes, *deviations))
    return result


def baseline_of(row: Row, rows: Sequence[Row], baseline: Mapping[str, str]) -> Row | None:
    """The baseline row with the same labels on every axis that the baseline does not fix; None unless it is one row.

    Args:
        rows: among which it is, all or those that carry the baseline's labels.
    """
    wanted = {**{axis: label for axis, label in row.labels.items() if axis not in baseline}, **baseline}
    found = select(rows, wanted)
    return found[0] if len(found) == 1 else None


def _stored(row: Row) -> dict[str, Any]:
    """The stored configuration of a row; {} before it has run."""
    for record in row.records:
        if config := {key: value for key, value in record.config.items() if _compared(key)}:
            return config
    return {}


def _planned(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row.records[0].overrides.items() if _compared(key)}


def _relative(row: Row, base: Row, metric: str) -> float | None:
    ours, theirs = row.value(metric).mean, base.value(metric).mean
    return None if ours is None or not theirs else ours / theirs - 1


def _is_declared(name: str, declared: Collection[str]) -> bool:
    if name in declared:
        return True
    for start, follows in FOLLOWS.items():
        if name.startswith(follows) and any(key.startswith(start) for key in declared):
            return True
    if name == STEPS and not {"objective.name", "generator.name"} & set(declared):
        return False
    # Another generator, sampler or tokenizer brings its own keys along.
    return any(key.endswith(".name") and name.startswith(key.removesuffix("name")) for key in declared)


def _compared(key: str) -> bool:
    return not key.startswith(NOT_COMPARED) and key not in NOT_SEMANTIC


def _short(digest: Any) -> str | None:
    return str(digest)[:12] if digest else None


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
