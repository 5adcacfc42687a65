"""Facts of a measurement: what it was made with.

They are read back from what the runs stored (configuration, steps, fingerprints, code version, kernels, protocol), not
from what was planned, so that an edited file, an old result or another machine shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.identity import NOT_SEMANTIC
from experiments.provenance import CODE, PRECISION, PROCESSES, kinds, makers
from lightning_modules.backends import DEPTHWISE_CONV1D_UPDATE, SELECTIVE_STATE_UPDATE, WHOLE_NETWORKS
from reports.records import Record

AS_PLANNED = "as planned"
NOT_COMPARED = ("runtime.", "preset", "seed", "evaluation.bootstrap", "search.")
"""Configuration that changes no result (what a search chose stands in the keys that it searched), and the seed, which a
row averages over and which is held against the plan."""
MISSING = "not recorded"
AND = " and "
Facts = dict[str, tuple[str, ...]]
"""Name -> value, or values where the measurement is not of one piece."""
EVALUATED, MEASURED = f"{CODE} of the evaluation", f"{CODE} of the metrics"
SAME, SAMPLED = "that of the training", "that of the evaluation"
DECODING = frozenset({SELECTIVE_STATE_UPDATE, DEPTHWISE_CONV1D_UPDATE, *WHOLE_NETWORKS})
"""Operations that a training runs for its sample grids alone."""


def facts(record: Record) -> dict[str, str]:
    """What was true of one measurement, as text by name; what was recorded goes before what was configured."""
    return {name: AND.join(values) for name, values in facts_of(record).items()}


def differing_facts(left: Record, right: Record) -> dict[str, tuple[str, str]]:
    """The facts in which two measurements differ; "-" where one knows nothing of it."""
    a, b = facts(left), facts(right)
    return {name: (a.get(name, "-"), b.get(name, "-")) for name in {**a, **b} if a.get(name) != b.get(name)}


def facts_of(record: Record) -> Facts:
    """As `facts`: several values of what changed between attempts at a training or processes that drew samples."""
    # An empty text says nothing, and older configurations lack keys that came later.
    result: Facts = {key: (_text(value),) for key, value in record.config.items() if compared(key) and value != ""}
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
            result[f"{name} of the evaluation"] = or_same(evaluated[name], values, SAME)
        if name not in (PROCESSES, PRECISION):
            result[f"{name} of the metrics"] = or_same(measured[name], evaluated[name], SAMPLED)
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


def or_same(later: tuple[str, ...], earlier: tuple[str, ...], same: str) -> tuple[str, ...]:
    """`same` where what comes later was made with what made the earlier, or with one of them, which is said there."""
    return (same,) if later == earlier or (len(later) == 1 and later[0] in earlier) else later


def compared(key: str) -> bool:
    """Whether a key of the configuration may change results."""
    return not key.startswith(NOT_COMPARED) and key not in NOT_SEMANTIC


def _short(digest: Any) -> str | None:
    return str(digest)[:12] if digest else None


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
