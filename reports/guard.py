"""The comparability guard: rows that differ in anything but what the sweep declares are named, with the difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from experiments.provenance import CODE
from experiments.resolve import FILES, SIZES
from experiments.validation import VALIDATION_TASK
from reports.aggregate import Row, select
from reports.facts import AND, EVALUATED, MEASURED, MISSING, SAME, SAMPLED, Facts, facts_of, or_same

SIZES_OF = {part: tuple(f"generator.{size}" for size in sizes) for part, sizes in SIZES.items()}
FOLLOWS = {
    "data.": ("data.fingerprint", "reference images", *SIZES_OF["data"]),
    "tokenizer.": ("tokenizer.fingerprint", *SIZES_OF["tokenizer"]),
    "text_encoder.": SIZES_OF["text_encoder"],
    "trainer.patience": ("trainer.max_steps",),
    **{f"{name.partition('.')[0]}.{key}": (name,) for name, keys in FILES.items() for key in keys},
}
"""Facts that follow from any key of a section, or from one key: declared along with it."""
STEPS = "sampler.steps"
"""Forward passes an image, which mean the same in all samplers of one objective."""
START = "trainer.init_fingerprint"


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
    by_row = [[facts_of(record) for record in row.measured] for row in rows]
    _unify_code(by_row, alike)
    _forgive_starts(rows, by_row)
    flags: list[Flag] = []
    for name in dict.fromkeys(name for found in by_row for fact in found for name in fact):
        flags += _mixed(name, by_row)
        meant = _is_declared(name, declared)
        if not meant or name in VALIDATION_TASK:
            # An operation that a row does not use is no difference, nor is a part that its benchmark does not time, or
            # a key that its objective does not have.
            may_lack = meant or name.startswith("kernel ") or "benchmark.name" in declared
            apart = _apart(name, rows, by_row, baseline, may_lack)
            flags += [replace(flag, declared=meant) for flag in apart]
    return flags


def _mixed(name: str, by_row: Sequence[Sequence[Facts]]) -> Iterator[Flag]:
    """Measurements that are of several values in one fact."""
    for index, found in enumerate(by_row):
        for values in dict.fromkeys(fact[name] for fact in found if len(fact.get(name, ())) > 1):
            yield Flag(index, name, AND.join(values))


def _apart(
    name: str, rows: Sequence[Row], by_row: Sequence[Sequence[Facts]], baseline: Mapping[str, str], may_lack: bool
) -> Iterator[Flag]:
    """Rows whose value of one fact is not the most common one; where they `may_lack` it, those that have it."""
    of_seeds = [[fact.get(name, (MISSING,)) for fact in found] for found in by_row]
    values = [sorted({values[0] for values in found if len(values) == 1}) for found in of_seeds]
    if may_lack:
        values = [[value for value in found if value != MISSING] for found in values]
    counts = Counter(value for found in values for value in found)
    if len(counts) < 2:
        return
    reference = [id(row) for row in select(rows, baseline)] if baseline else []
    favoured = {value for row, found in zip(rows, values, strict=True) if id(row) in reference for value in found}
    usual = max(counts, key=lambda value: (counts[value], value in favoured))
    for index, found in enumerate(values):
        if other := [value for value in found if value != usual]:
            seeds = [
                record.seed
                for record, value in zip(rows[index].measured, of_seeds[index], strict=True)
                if len(value) == 1 and value[0] in other
            ]
            some = tuple(seeds) if len(seeds) < len(by_row[index]) else ()
            yield Flag(index, name, AND.join(other), usual, some)


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
            fact[MEASURED] = or_same(fact[MEASURED], evaluated, SAMPLED)
        if EVALUATED in fact:
            fact[EVALUATED] = or_same(fact[EVALUATED], fact[CODE], SAME)


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
