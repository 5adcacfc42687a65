"""What the numbers of a table rest on, in sentences: samples, reference, features, prompts; how it was timed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from experiments.provenance import makers
from lightning_modules.metrics.config import METRICS
from reports.aggregate import Row, listed, rows_of, shared_labels
from reports.quantities import quantity
from reports.records import Record, named

INCEPTION = ("fid", "is", "sfid", "kid", "precision", "recall")
"""Quantities on Inception's features."""


def protocol_notes(records: Sequence[Record], shown: Collection[str]) -> list[str]:
    """What every number rests on: N, reference, extractor, floor, prompts. One note for each that is in use.

    Args:
        shown: the metrics whose floor is of interest.
    """
    notes: list[str] = []
    rows = rows_of(records)
    ways: dict[str, list[Record]] = {}
    prompts: dict[str, list[Record]] = {}
    timed = [record for record in records if record.benchmark and record.protocol]
    if timed:
        notes.append(_timing_note(timed))
    for record in records:
        if record.protocol and not record.benchmark:
            ways.setdefault(_measuring_note(record, shown), []).append(record)
            prompts.setdefault(str(record.protocol.get("prompts", "")), []).append(record)
    notes += [f"Of {_whose(members, rows)}: {text}" if len(ways) > 1 else text for text, members in ways.items()]
    common = shared_labels(rows) if records else {}
    notes += _precision_note(records)
    for text, members in prompts.items():
        own = [named(a, label) for a, label in shared_labels(rows_of(members)).items() if a not in common]
        if text:
            which = f" of {', '.join(own)}" if own and len(prompts) > 1 else ""
            notes.append(f"Prompts{which}: {text}.")
    return list(dict.fromkeys(notes))


def _whose(members: Sequence[Record], rows: Sequence[Row]) -> str:
    """Some of the records in words: the labels that they alone have, their rows, or how many these are."""
    own = rows_of(members)
    shared, beside = shared_labels(own), [row for row in rows if row.labels not in [found.labels for found in own]]
    alone = [named(a, label) for a, label in shared.items() if all(row.labels.get(a) != label for row in beside)]
    return ", ".join(alone) if alone and beside else listed(own, rows)


def _measuring_note(record: Record, shown: Collection[str]) -> str:
    """What samples were measured by, and what real images get in their place."""
    protocol = record.protocol
    parts = [f"N = {protocol.get('num_samples', '?')} samples against {protocol.get('reference', '?')}"]
    if clip := protocol.get("clip"):
        parts.append(f"CLIP of width {clip.get('width', '?')} ({str(clip.get('fingerprint', ''))[:8]})")
    if blip := protocol.get("attribute_binding"):
        parts.append(f"{blip['model']}, phrases {blip['phrases']} ({str(blip['fingerprint'])[:8]})")
    if detector := protocol.get("spatial_relations"):
        parts.append(f"boxes of {detector['detector']}, not of UniDet ({str(detector['fingerprint'])[:8]})")
    parts += _features(protocol, shown)
    floor = protocol.get("floor", {})
    real = [(quantity(m), x) for m, x in floor.items() if m in shown and isinstance(x, int | float)]
    if real:
        listed = ", ".join(f"{known.label} {known.text(x)}" for known, x in real)
        parts.append(f"as many real images in their place: {listed}")
    return "; ".join(parts) + "."


def _features(protocol: Mapping[str, Any], shown: Collection[str]) -> list[str]:
    """The networks on whose features the shown distances rest."""

    def network(section: Mapping[str, Any]) -> str:
        return f"{section['extractor']} ({str(section.get('extractor_sha256', ''))[:8]})"

    parts = []
    for section, words in (("inception", INCEPTION), ("dinov2", ("fd_dinov2",))):
        if protocol.get(section) and (labels := [quantity(name).plain for name in words if name in shown]):
            parts.append(f"features of {', '.join(labels)}: {network(protocol[section])}")
    if protocol.get("extractor") and (not parts or any("efflite0" in name for name in shown)):
        own = [quantity(name).plain for name in METRICS if name in shown and "efflite0" in name] if parts else []
        of = f" of {', '.join(own)}" if own else ""
        parts.append(f"features{of}: {network(protocol)}, so FD is not FID")
    return parts


def _precision_note(records: Sequence[Record]) -> list[str]:
    """Where bfloat16 was asked for and is not what a device computed in."""
    results = [result for record in records for result in (record.run_result, record.evaluation_result)]
    work = [maker for result in results for maker in makers(result.get("provenance", {}))]
    asked = {str(record.config.get("trainer.precision")) for record in records}
    if asked != {"bf16"} or not any(origin.get("precision") == "fp32" for origin in work):
        return []
    whole = all(origin.get("precision", "fp32") == "fp32" for origin in work)
    return [f"Computed in float32{'' if whole else ' in part'}, as the device does not compute in bfloat16."]


def _span(values: Sequence[float], form: str) -> str:
    """The least and the most, once where they print alike."""
    return " to ".join(dict.fromkeys(format(value, form) for value in (min(values), max(values))))


def _timing_note(records: Sequence[Record]) -> str:
    """How benchmarks were timed, on what, and how busy it was before."""
    machines: dict[str, None] = {}
    for record in records:
        hardware = record.run_result.get("provenance", {}).get("hardware", {})
        threads = record.protocol.get("threads")
        machines[", ".join(hardware.get("gpus") or [f"{hardware.get('cpu')}, {threads} threads"])] = None
    rounds = [count for record in records for count in record.protocol.get("rounds", {}).values()]
    medians = f"Medians of {_span(rounds, 'd')} repetitions" if rounds else "Medians"
    loads = [load for record in records if (load := record.protocol.get("load_before")) is not None]
    load = f"; the system's load before was {_span(loads, '.1f')}" if loads else ""
    decoding = ", without decoding" if any("images_per_s" in record.metrics for record in records) else ""
    weights = f"with random weights{decoding}"
    return f"{medians}, in turns where rows are compared, {weights}, on {' and '.join(machines)}{load}."
