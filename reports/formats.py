"""A table as Markdown, LaTeX (booktabs), CSV and, where pyarrow is installed, parquet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reports.tables import Entry, Head, Table, TableRow, over_spans

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "|": r"\textbar{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "×": r"$\times$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "–": "--",
    "−": "$-$",
    "…": r"\ldots{}",
    "τ": r"$\tau$",
    "\n": " ",
}
MARKDOWN = re.compile(r"""[\\*~<`$]|&(?=#?\w+;)|\](?=[(\[])|(?<![^\W_])_|_(?![^\W_])""")
"""Marks that mean something wherever they stand; an entity, a link and an underscore only at the place matched."""


# --- Markdown ---------------------------------------------------------------------------------------------------------


def to_markdown(table: Table, provenance: str = "") -> str:
    """A GitHub-flavoured table under its title, with the notes below, and last the line on where it comes from."""
    lines = [f"### {markdown(table.title)}", ""]
    heads = (f"{head.over}: {head.text}" if head.over else head.text for head in table.heads)
    lines.append(_markdown_line(map(markdown, heads)))
    lines.append("|" + "|".join("---" if head.kind == "label" else "---:" for head in table.heads) + "|")
    for group, rows in grouped(table.rows):
        if group:
            lines.append(_markdown_line([f"**{markdown(group)}**", *("" for _ in table.heads[1:])]))
        lines += [_markdown_line(_markdown_entry(entry, row) for entry in row.entries) for row in rows]
    lines.append("")
    for letter, text in table.notes:
        lines.append(f"{f'<sup>{letter}</sup> ' if letter else ''}{markdown(text)}  ")
    lines += [f"{provenance}  "] if provenance else []
    return "\n".join(lines) + "\n"


def markdown(text: str) -> str:
    """Escape text for GitHub-flavoured Markdown, on one line; code in backticks stays code."""
    parts = text.replace("\n", " ").split("`")
    if len(parts) % 2 == 0:
        return MARKDOWN.sub(r"\\\g<0>", "`".join(parts))
    return "`".join(part if number % 2 else MARKDOWN.sub(r"\\\g<0>", part) for number, part in enumerate(parts))


def _markdown_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _markdown_entry(entry: Entry, row: TableRow) -> str:
    text = markdown(entry.full)
    if entry.rank == "best":
        text = f"**{text}**"
    elif entry.rank == "second":
        text = f"<u>{text}</u>"
    elif entry.kind == "missing":
        text = f"*{text}*"
    elif entry.kind == "label" and row.baseline and entry is row.entries[0]:
        text = f"{text} (baseline)"
    return f"{text}{f' {entry.doubt}' if entry.doubt else ''}{''.join(f'<sup>{mark}</sup>' for mark in entry.marks)}"


# --- LaTeX ------------------------------------------------------------------------------------------------------------


def to_latex(table: Table, label: str, provenance: Iterable[str] = ()) -> str:
    r"""A `table` environment to \input into a paper that loads booktabs and graphicx; a wide one is scaled to the line.

    Args:
        label: for \ref, "tab:" is put before it.
        provenance: lines that go into comments.
    """
    columns = "".join("l" if head.kind == "label" else "r" for head in table.heads)
    lines = ["% Needs \\usepackage{booktabs,graphicx}.", *(f"% {line}" for line in provenance), TWO_LINES]
    lines += ["\\begin{table}[t]", "\\centering", f"\\caption{{{latex(table.title)}}}", f"\\label{{tab:{label}}}"]
    lines.append("\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%")
    lines += [f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}", "\\toprule", *_latex_heads(table.heads), "\\midrule"]
    for position, (group, rows) in enumerate(grouped(table.rows)):
        if group:
            lines += ["\\addlinespace"] if position else []
            lines.append(f"\\multicolumn{{{len(table.heads)}}}{{@{{}}l}}{{\\textit{{{latex(group)}}}}} \\\\")
        lines += [_latex_line(_latex_entry(entry, row) for entry in row.entries) for row in rows]
    lines += ["\\bottomrule", "\\end{tabular}}", ""]
    if table.notes:
        lines.append("\\smallskip")
        lines.append("\\begin{minipage}{\\linewidth}\\footnotesize")
        lines += [f"{f'$^{{{letter}}}$ ' if letter else ''}{latex(text)}\\par" for letter, text in table.notes]
        lines.append("\\end{minipage}")
    return "\n".join([*lines, "\\end{table}"]) + "\n"


TWO_LINES = "\\providecommand{\\twolines}[3][t]{\\begin{tabular}[#1]{@{}r@{}}#2\\\\#3\\end{tabular}}"


def latex(text: str) -> str:
    """Escape text for LaTeX, code in backticks included; characters that neither it nor T1 fonts know become a "?"."""
    parts = text.split("`")
    escaped = ["".join(LATEX.get(char, char if ord(char) < 0x250 else "?") for char in part) for part in parts]
    if len(parts) % 2 == 0:
        return "`".join(escaped)
    return "".join(f"\\texttt{{{part}}}" if number % 2 else part for number, part in enumerate(escaped))


def _latex_line(cells: Iterable[str]) -> str:
    """A row; after the end of another one, and after a rule, a bracket or a star would be taken for an argument."""
    line = " & ".join(cells) + " \\\\"
    return "{}" + line if line.startswith(("[", "*")) else line


def _latex_heads(heads: Sequence[Head]) -> list[str]:
    names, spans = _latex_line(map(_latex_head, heads)), over_spans(heads)
    if len(spans) == 1:
        return [names]
    over, rules, start = [], [], 1
    for text, width in spans:
        over.append(f"\\multicolumn{{{width}}}{{c}}{{{latex(text)}}}")
        if text:
            rules.append(f"\\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    return [_latex_line(over), "".join(rules), names]


def _latex_head(head: Head) -> str:
    """A unit, or whose numbers these are, stands on a line of its own."""
    name, bracket, rest = head.text.partition(" (")
    return f"\\twolines[b]{{{latex(name)}}}{{{latex(bracket.strip() + rest)}}}" if bracket else latex(name)


def _latex_entry(entry: Entry, row: TableRow) -> str:
    text = latex(entry.text)
    if entry.kind == "label" and row.baseline and entry is row.entries[0]:
        text = f"{text} (baseline)"
    elif entry.rank == "best":
        text = f"\\textbf{{{text}}}"
    elif entry.rank == "second":
        text = f"\\underline{{{text}}}"
    elif entry.kind == "missing":
        text = f"\\textit{{{text}}}"
    text += (f"$^{{{entry.doubt}}}$" if entry.doubt else "") + (
        f"$^{{{','.join(entry.marks)}}}$" if entry.marks else ""
    )
    return f"\\twolines{{{text}}}{{\\scriptsize {latex(entry.interval)}}}" if entry.interval else text


def grouped(rows: Sequence[TableRow]) -> list[tuple[str, list[TableRow]]]:
    """Rows under their group headings, in order; one group named "" where there are none."""
    result: dict[str, list[TableRow]] = {}
    for row in rows:
        result.setdefault(row.group, []).append(row)
    return list(result.items())


# --- data -------------------------------------------------------------------------------------------------------------


def to_data(table: Table) -> list[dict[str, Any]]:
    """One dictionary a row with unrounded, unscaled numbers: labels, and mean, std, n and note of each quantity.

    Quantities with a bootstrap interval in some row have its ends as well.
    """
    letters = dict(table.notes)
    shown = {head.column.metric for head in table.heads if head.column}
    resampled = {
        entry.value.metric for row in table.rows for entry in row.entries if entry.value and entry.value.interval
    }
    result = []
    for row in table.rows:
        line: dict[str, Any] = dict(row.labels)
        line["baseline"] = row.baseline
        for head, entry in zip(table.heads, row.entries, strict=True):
            column = head.column
            if column is None:
                line["flags"] = "; ".join([*filter(None, [line.get("flags")]), *(letters[m] for m in entry.marks)])
                continue
            prefix = f"{head.over}/" if head.over else ""
            if head.kind == "paper":
                line[f"{prefix}paper_{column.paper}"] = entry.published
                continue
            value = entry.value
            line[f"{prefix}{column.metric}"] = value.mean if value else None
            # A spread over subsets or splits that has a column of its own (is_std) keeps its name.
            seeds = "_over_seeds" if f"{column.metric}_std" in shown else ""
            line[f"{prefix}{column.metric}_std{seeds}"] = value.std if value else None
            if column.metric in resampled:
                low, high = (value and value.interval) or (None, None)
                line |= {f"{prefix}{column.metric}_low": low, f"{prefix}{column.metric}_high": high}
            line[f"{prefix}{column.metric}_n"] = value.n if value else 0
            line[f"{prefix}{column.metric}_note"] = value.note if value else "not part of this sweep"
        result.append(line)
    return result


def to_csv(table: Table) -> str:
    """`to_data` as CSV; what is missing is empty."""
    rows = to_data(table)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_parquet(table: Table, path: Path) -> bool:
    """`to_data` as parquet; False, writing nothing, where pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        return False
    import pandas

    pandas.DataFrame(to_data(table)).to_parquet(path)
    return True
