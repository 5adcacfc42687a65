"""The way back from every number: table entry -> evaluation -> run -> code, configuration, data, hardware, command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from experiments.provenance import code_of, makers
from reports.aggregate import LISTED
from reports.entry import entry_of
from reports.facts import AND, DECODING, MISSING, kernels_of
from reports.records import Record
from reports.subject import Subject
from sweeps.amendments import amendment_words


def provenance(subject: Subject) -> dict[str, Any]:
    """What goes into provenance.json."""
    measured = [record for record in subject.records if not record.reason]
    return {
        "schema": 1,
        "report_version": report_version(subject),
        "sweep": subject.name,
        "scale": subject.scale,
        "command": subject.command,
        "overview": asdict(entry_of(subject)),
        "numbers": numbers(subject),
        "claims": [verdict.as_json() for verdict in subject.verdicts],
        "evaluations": {
            record.eval_id: {
                "run_id": record.run_id,
                "protocol": dict(record.protocol),
                "provenance": record.evaluation_result.get("provenance", {}),
                **{key: value for key, value in record.evaluation_result.items() if key == "measured_again"},
                "config": record.config,
            }
            for record in measured
            if record.evaluation
        },
        "runs": {
            record.run_id: {
                "step": record.run_result.get("step"),
                "parameters": record.run_result.get("parameters"),
                "provenance": record.run_result.get("provenance", {}),
            }
            for record in measured
            if record.run
        },
        "benchmarks": {
            record.eval_id: {
                "protocol": dict(record.protocol),
                "seconds": record.run_result.get("seconds", {}),
                "provenance": record.run_result.get("provenance", {}),
                "config": record.config,
            }
            for record in measured
            if record.benchmark
        },
        "missing": [
            {"labels": dict(r.labels), "seed": r.seed, "run_id": r.run_id, "eval_id": r.eval_id, "reason": r.reason}
            for r in subject.records
            if r.reason
        ],
        "flags": [
            {
                "labels": dict(subject.rows[f.row].labels),
                "fact": f.fact,
                "value": f.value,
                "elsewhere": f.usual,
                **({"seeds": list(f.seeds)} if f.seeds else {}),
            }
            for f in subject.flags
        ],
    }


def report_version(subject: Subject) -> str:
    """Hash of what a report is made of beside its results: its cells, its header and notes, its flags and the
    reproductions that lift some, its layout with the claims and the paper's numbers, and the code that makes it."""
    cells = [(record.name, record.run_id, record.eval_id) for record in subject.records]
    header = (subject.title, subject.reproduces, subject.citation, subject.in_paper, subject.url, subject.command)
    said = (subject.remarks, subject.same_code, subject.flags)
    return hashlib.sha256(f"{header}{said}{subject.layout}{cells}{_code_hash()}".encode()).hexdigest()[:16]


def is_current(subject: Subject, index: Path) -> bool:
    """Whether the page `index` needs no writing: every cell is done, and the page was written after the last of their
    results, of these cells, by this code, with these claims."""
    if not index.exists() or any(record.reason or not record.works for record in subject.records):
        return False
    try:
        made_by = json.loads(index.with_name("provenance.json").read_text(encoding="utf-8")).get("report_version")
    except (OSError, ValueError):
        return False
    if made_by != report_version(subject):
        return False
    results = [work.result_path for record in subject.records for work in record.works]
    return all(path.exists() and path.stat().st_mtime < index.stat().st_mtime for path in results)


@cache
def _code_hash() -> str:
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in (*sorted(folder.glob("*.py")), *sorted((folder / "templates").iterdir())):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def numbers(subject: Subject) -> list[dict[str, Any]]:
    """Every number of the table: labels, quantity, mean, std, and the single values with their ids."""
    result = []
    for row in subject.rows:
        for column in subject.layout.columns:
            value = row.value(column.metric)
            if value.mean is None:
                continue
            sources = [record for record in row.measured if column.metric in record.metrics]
            result.append(
                {
                    "labels": dict(row.labels),
                    "metric": column.metric,
                    "mean": value.mean,
                    "std": value.std,
                    "n": value.n,
                    "expected": value.expected,
                    "values": [
                        {
                            "value": record.metrics[column.metric],
                            "seed": record.seed,
                            "run_id": record.run_id,
                            "eval_id": record.eval_id,
                            "reproduce": subject.command_of(record),
                        }
                        for record in sources
                    ],
                }
            )
    return result


def origin(record: Record) -> str:
    """The ids behind one record, in words."""
    if record.benchmark:
        return f"benchmark {record.eval_id}"
    return f"evaluation {record.eval_id} of run {record.run_id}"


def origin_note(subject: Subject) -> str:
    """One line on a whole table: steps, code, the command that makes it again, and where the rest is said."""
    measured = [record for record in subject.records if not record.reason]
    steps = sorted({record.run_result["step"] for record in measured if "step" in record.run_result})
    origins = [origin for record in measured for origin in record.origins]
    codes = list(dict.fromkeys(code for origin in origins if (code := code_of(origin))))
    amended = sum(bool(record.amended) for record in subject.records)
    changed = f", {amended} of {len(subject.records)} cells amended by `ablate retry`" if amended else ""
    parts = [f"made with `{subject.command}`{changed}"]
    parts += [f"{' to '.join(map(str, dict.fromkeys((steps[0], steps[-1]))))} training steps"] if steps else []
    parts += [f"code {', '.join(codes) if len(codes) <= LISTED else f'of {len(codes)} versions'}"] if codes else []
    return f"{subject.name} at scale {subject.scale}: {'; '.join(parts)}. Every number's origin: provenance.json."


def origin_lines(record: Record) -> list[tuple[str, str]]:
    """What a person reads about one record: (what, value)."""
    origin: Mapping[str, Any] = record.run_result.get("provenance", {})
    trained, sampled = makers(origin), makers(record.evaluation_result.get("provenance", {}))
    codes = [_each(parts, _code) for parts in (trained, sampled)]
    again = record.evaluation_result.get("measured_again")
    seconds = record.metrics.get("train_seconds")
    ids = [("benchmark", record.eval_id)] if record.benchmark else [("run", record.run_id)]
    ids += [] if record.benchmark else [("evaluation", record.eval_id)]
    training = f"{record.run_result.get('step', '-')} steps" + (f", {seconds:.0f} s" if seconds else "")
    lines = [
        *ids,
        *([("amended", " ".join(amendment_words(record.amended)))] if record.amended else []),
        ("code", codes[0]),
        *([("code of the samples", codes[1])] if record.evaluation_result and codes[0] != codes[1] else []),
        *([("code of the metrics", _code(again))] if again else []),
        ("data", str(origin.get("data_fingerprint", "-"))[:16]),
        ("tokenizer", str(origin.get("tokenizer_fingerprint", "-"))[:16]),
        *_kernels(record),
        ("hardware", _each(trained, _machine)),
        ("precision", _each(trained, lambda maker: str(maker.get("precision", "-")))),
        ("versions", _each(trained, _versions)),
        ("attempts", str(origin.get("attempts", "-"))),
        *([] if record.benchmark else [("training", training)]),
        ("command", _typed(str(origin.get("command", "-")))),
    ]
    return lines


def _each(parts: Sequence[Mapping[str, Any]], say: Callable[[Mapping[str, Any]], str]) -> str:
    """What `say` tells of the makers of a training or of samples: once, or with the share of each where they differ."""
    if len(told := dict.fromkeys(map(say, parts))) == 1:
        return next(iter(told))
    return "; ".join(f"{say(part)} ({_share(part)})" for part in parts)


def _share(part: Mapping[str, Any]) -> str:
    return f"{part['images']} images" if "images" in part else f"steps {part['first_step']} to {part['last_step']}"


def _machine(maker: Mapping[str, Any]) -> str:
    if not (hardware := maker.get("hardware", {})):
        return "-"
    parts = (*hardware.get("gpus", []), hardware.get("cpu"), f"{hardware.get('cores', '?')} cores")
    return ", ".join(str(part) for part in parts if part)


def _versions(maker: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in maker.get("versions", {}).items()) or "-"


def _code(origin: Mapping[str, Any]) -> str:
    commit, changed = origin.get("git_commit"), " with uncommitted changes" if origin.get("git_dirty") else ""
    return f"{commit[:10]}{changed}" if commit else "not under version control" if "git_commit" in origin else MISSING


def _kernels(record: Record) -> list[tuple[str, str]]:
    """Which back ends ran. A training decodes for its sample grids alone: what it did that with made no number."""
    ran = kernels_of(makers(record.run_result.get("provenance", {})))
    if record.benchmark:
        return [("kernels", _listed(ran))]
    grids = {op: name for op, name in ran.items() if op in DECODING}
    return [
        ("kernels of the training", _listed({op: name for op, name in ran.items() if op not in DECODING})),
        *([("kernels of its sample grids", _listed(grids))] if grids else []),
        ("kernels of the evaluation", _listed(kernels_of(makers(record.evaluation_result.get("provenance", {}))))),
    ]


def _listed(backends: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{op}: {AND.join(names)}" for op, names in backends.items()) or "-"


def _typed(command: str) -> str:
    """A recorded command as a person can type it: `python -m experiments.cli` was once recorded by its file."""
    return f"ablate {command.removeprefix('cli.py ')}" if command.startswith("cli.py ") else command
