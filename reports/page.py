"""index.html: one page that holds everything, works from file://, on a phone and on paper, and needs no JavaScript."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from reports.aggregate import Row, row_names, select
from reports.contest import TIMED_APART, timed_apart
from reports.formats import grouped
from reports.one_factor import baseline_of
from reports.provenance import origin_lines
from reports.quantities import printed, quantity
from reports.reference import ReferenceTable
from reports.samples import SampleRow, Samples, png_uri, strip
from reports.subject import Subject
from reports.tables import DASH, Entry, Head, Table, TableRow, over_spans
from reports.uncertainty import Difference, compare

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Picture:
    """One figure as SVG text."""

    title: str
    caption: str
    files: tuple[str, ...]
    """The same figure in files beside the page."""
    svg: str

    @property
    def uri(self) -> str:
        """As a data URI."""
        return svg_uri(self.svg)


def render(subject: Subject, pictures: Sequence[Picture], samples: Samples | None, beside: Sequence[str]) -> str:
    """The page as HTML text; `beside` names the files and folders that lie next to it."""
    names = row_names(subject.rows)
    content: dict[str, Any] = {
        "subject": subject,
        "beside": beside,
        "css": stylesheet(),
        "facts": _facts(subject),
        "table": table_html(subject.table),
        "flags": [(names[subject.rows[flag.row]], flag.text) for flag in subject.flags],
        "measured_rows": sum(bool(row.measured) for row in subject.rows),
        "meanings": list(dict.fromkeys((c.plain, c.description) for c in subject.layout.columns if c.description)),
        "verdicts": [(verdict, quantity(verdict.claim.metric).plain) for verdict in subject.verdicts],
        "samples": samples,
        "strips": _strips(samples) if samples else [],
        "figures": pictures,
        "differences": _differences(subject, names),
        "sizes": [n for n in ("parameters", "flops") if any(getattr(item, n) for item in subject.one_factor)],
        "ranked": [column for column in subject.layout.columns if column.better != "none"],
        "baseline": subject.baseline,
        "runs": [_run_line(subject, index) for index in range(len(subject.records))],
        "published": _published(subject.layout.reference) if subject.layout.reference else None,
        "provenance": _provenance(subject, names),
    }
    content["sections"] = _sections(content)
    return environment().get_template("page.html").render(content)


def environment() -> Environment:
    """Where the templates are, strict about names and escaping everything."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )


def stylesheet() -> Markup:
    """The style of all pages."""
    return Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = [
        ("table", "Table", "table"),
        ("claims", "Claims", "verdicts"),
        ("samples", "Samples", "samples"),
        ("figures", "Figures", "figures"),
        ("baseline", "Against the baseline", "differences"),
        ("runs", "Runs", "runs"),
        ("published", "As published", "published"),
        ("provenance", "Behind each number", "provenance"),
        ("again", "Run it again", "subject"),
    ]
    return [(anchor, name) for anchor, name, key in names if content[key]]


def _facts(subject: Subject) -> list[tuple[str, str]]:
    counts = subject.counts()
    facts = [("scale", subject.scale), ("cells", f"{counts.get('done', 0)} of {len(subject.records)} done")]
    facts += [(state, str(n)) for state, n in counts.items() if state != "done"]
    facts.append(("seeds", str(len({record.seed for record in subject.records}))))
    steps = {str(r.run_result["step"]) for r in subject.records if "step" in r.run_result}
    facts += [("steps", " or ".join(sorted(steps)))] if steps else []
    return facts


# --- table ------------------------------------------------------------------------------------------------------------


def table_html(table: Table) -> Markup:
    """The table of the report as HTML, with its notes."""
    parts = ['<div class="scroll"><table><thead>', *_over_heads(table), "<tr>"]
    parts += [_head_html(head) for head in table.heads]
    parts.append("</tr></thead><tbody>")
    for group, rows in grouped(table.rows):
        if group:
            parts.append(f'<tr class="group"><td class="label" colspan="{len(table.heads)}">{escape(group)}</td></tr>')
        for row in rows:
            parts.append("<tr>" + "".join(_entry_html(entry, row) for entry in row.entries) + "</tr>")
    parts.append("</tbody></table></div>")
    notes = "".join(
        f"<li>{f'<sup>{letter}</sup> ' if letter else ''}{_with_code(text)}</li>" for letter, text in table.notes
    )
    return Markup("".join(parts) + (f'<ul class="notes">{notes}</ul>' if notes else ""))


def _with_code(text: str) -> str:
    """Escaped text, what stands in backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text)))


def _head_html(head: Head) -> str:
    text = head.text.replace(" ↓", "\u00a0↓").replace(" ↑", "\u00a0↑")  # an arrow stays with its word
    described = head.column.description if head.column and head.kind == "measured" else ""
    title = f' title="{escape(described)}"' if described else ""
    return f'<th class="{head.kind}"{title}>{escape(text)}</th>'


def _over_heads(table: Table) -> list[str]:
    if not any(head.over for head in table.heads):
        return []
    cells = "".join(f'<th colspan="{width}">{escape(text)}</th>' for text, width in over_spans(table.heads))
    return [f'<tr class="over">{cells}</tr>']


def _entry_html(entry: Entry, row: TableRow) -> str:
    classes = " ".join(filter(None, [entry.kind, entry.rank]))
    tag = '<span class="tag">baseline</span>' if row.baseline and entry is row.entries[0] else ""
    marks = f"<sup>{','.join(entry.marks)}</sup>" if entry.marks else ""
    interval = f"<small>{escape(entry.interval)}</small>" if entry.interval else ""
    doubt = f" {entry.doubt}" if entry.doubt else ""
    return f'<td class="{classes}">{escape(entry.text)}{doubt}{marks}{tag}{interval}</td>'


# --- other sections ---------------------------------------------------------------------------------------------------


def _differences(subject: Subject, names: Mapping[Row, str]) -> list[dict[str, Any]]:
    lines, bases = [], select(subject.rows, subject.layout.baseline)
    for item in subject.one_factor:
        row = subject.rows[item.row]
        base = baseline_of(row, bases, subject.layout.baseline)
        deltas = []
        for column in subject.layout.columns:
            if column.better == "none" or base is None:
                continue
            found, apart = compare(row, base, column.metric), timed_apart((row, base), column.metric)
            text = DASH if found is None else f"{found.delta * column.scale:+{column.format}}"
            deltas.append(
                {
                    "text": text,
                    "faint": found is None or apart or not found.distinguishable or bool(found.single_training),
                    "verdict": "timed apart" if apart else _verdict(found),
                    "method": TIMED_APART if apart else found.text if found else "not measured",
                }
            )
        lines.append(
            {
                "name": names[row],
                "text": item.text,
                "sizes": {"parameters": _share(item.parameters), "flops": _share(item.flops)},
                "deltas": deltas,
            }
        )
    return lines


def _share(deviation: float | None) -> str:
    """A relative deviation as printed."""
    return DASH if deviation is None else f"{deviation:+.1%}"


def _verdict(found: Difference | None) -> str:
    """A difference's verdict in the few words that fit below a number."""
    if found is None or found.method == "exact":
        return ""
    if not found.comparable:
        return "not comparable"
    if found.distinguishable is None:
        return "noise unknown"
    if not found.distinguishable:
        return "not distinguishable"
    return "in these samples" if found.single_training else "distinguishable"


def _run_line(subject: Subject, index: int) -> dict[str, Any]:
    record = subject.records[index]
    seconds, status = record.run_result.get("train_seconds"), record.state.status
    return {
        "name": record.name,
        "state": record.state.state,
        "text": record.reason or "done",
        "steps": record.run_result.get("step") or status.step or DASH,
        "seconds": printed("train_seconds", seconds) if seconds else DASH,
        "run": record.run_id,
    }


def _published(table: ReferenceTable) -> dict[str, Any]:
    rows = []
    for row in table.rows:
        values = [
            DASH if value is None else f"{'≈ ' if name in row.approximate else ''}{value:g}"
            for name, value in row.values.items()
        ]
        rows.append((row.name, values, "; ".join(dict.fromkeys(row.sources.values()))))
    return {
        "citation": table.citation,
        "where": table.where,
        "title": table.title + (f" ({table.protocol})" if table.protocol else ""),
        "columns": [column.label for column in table.columns.values()],
        "rows": rows,
    }


def _provenance(subject: Subject, names: Mapping[Row, str]) -> list[dict[str, Any]]:
    result = []
    for row in subject.rows:
        if not row.measured:
            continue
        values = [(column, row.value(column.metric).mean) for column in subject.layout.columns]
        records = [
            {
                "title": f"seed {record.seed}",
                "lines": origin_lines(record),
                "command": subject.command_of(record),
            }
            for record in row.measured
        ]
        summary = ", ".join(f"{column.label} {column.text(mean)}" for column, mean in values if mean is not None)
        result.append({"name": names[row], "summary": summary, "records": records})
    return result


# --- images -----------------------------------------------------------------------------------------------------------


def _strips(samples: Samples) -> list[tuple[SampleRow, tuple[str, ...], str]]:
    """Every row, the heads that stand above it, and its images side by side as a data URI."""
    pictures = (png_uri(Image.fromarray(strip(row.images))) for row in samples.rows)
    return list(zip(samples.rows, samples.bands(), pictures, strict=True))


def svg_uri(text: str) -> str:
    """SVG text as a data URI; not as base64, which is a third longer and hardly shrinks when it is compressed."""
    start = text.index("<svg")  # without the XML declaration and the document type
    return "data:image/svg+xml," + quote(" ".join(text[start:].split()), safe=" /:;,=.-_~+!*@")
