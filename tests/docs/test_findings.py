"""The findings in README.md and on the benchmarks' page are those of the published reports: claims and all numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sweeps.definition import load_sweep

PROJECT = Path(__file__).parents[2]
PUBLISHED = PROJECT / "reports" / "published"
BENCHMARKS = PUBLISHED / "benchmarks" / "README.md"
ROW = re.compile(
    r"^\| (?P<claim>[^|]+) \| (?P<word>[a-z ]+) \| (?P<here>[^|]+) \| \[`[^`]+`\]\((?P<link>[^)]+)\) \|$", re.M
)
"""| what the paper says | judgement | what was measured | [`sweep`](page) |"""

RATIO = r"(?P<{0}low>[\d.]+) to (?P<{0}high>[\d.]+)"
PAGE = r"\[`[^`]+`\]\((?P<link>[^)]+)\) \|$"
SPEED = re.compile(rf"^\| (?P<what>[^|]+) \| (?P<against>[^|]+) \| {RATIO.format('')} \| {PAGE}", re.M)
"""| what, phase | contender | lowest to highest ratio | [`command`](table) |"""
BOTH = re.compile(
    rf"^\| (?P<what>[^|]+) \| (?P<against>[^|]+) \| {RATIO.format('f_')} \| {RATIO.format('b_')} \| {PAGE}", re.M
)
"""| what | contender | forward | forward+backward | [`command`](table) |"""


def _section(title: str) -> str:
    return (PROJECT / "README.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _findings() -> list[dict[str, str]]:
    return [found.groupdict() for found in ROW.finditer(_section("What came out"))]


def _speeds() -> list[dict[str, str]]:
    """Every range of README.md and of the benchmarks' own page."""
    readme, listed = _section("How fast it is"), BENCHMARKS.read_text().replace("](", "](reports/published/benchmarks/")
    speeds = [found.groupdict() for found in SPEED.finditer(readme + listed)]
    for row in map(re.Match.groupdict, BOTH.finditer(readme)):
        for phase, key in (("forward", "f_"), ("forward+backward", "b_")):
            speeds.append(row | {"low": row[f"{key}low"], "high": row[f"{key}high"], "what": f"{row['what']}, {phase}"})
    return speeds


def test_there_are_findings() -> None:
    assert len(_findings()) >= 5


@pytest.mark.parametrize("finding", _findings(), ids=lambda finding: finding["claim"][:40])
def test_a_finding_is_what_its_report_says(finding: dict[str, str]) -> None:
    folder = (PROJECT / finding["link"]).parent
    claims = json.loads((folder / "provenance.json").read_text())["claims"]
    judged = {claim["text"].rstrip("."): claim for claim in claims}
    claim = judged[finding["claim"].rstrip(".")]
    assert claim["judgement"] == finding["word"]
    known = (folder / "table.md").read_text() + " ".join(claim["evidence"])
    for number in re.findall(r"\d+(?:\.\d+)?", finding["here"]):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", known), f"{number} is not in {finding['link']}"


def test_the_sweeps_of_three_seeds_of_one_and_of_none_are_counted() -> None:
    records = [json.loads(path.read_text()) for path in PUBLISHED.glob("*/provenance.json")]
    three = sum("seeds=0,1,2" in record["command"] for record in records)
    timed = sum(load_sweep(record["sweep"]).config.measure == "benchmark" for record in records)
    one = [record["sweep"] for record in records if "seeds=" not in record["command"] and record["runs"]]
    said = f"{three} sweeps with three seeds, `{'`, `'.join(one)}` with one; the other {timed} time networks"
    assert three + timed + len(one) == len(records) and said in " ".join(_section("What came out").split())


def test_every_range_of_the_documents_is_read() -> None:
    texts = (_section("How fast it is"), BENCHMARKS.read_text())
    assert len(_speeds()) == sum(len(re.findall(r"\d to \d", text)) for text in texts) >= 40


@pytest.mark.parametrize("speed", _speeds(), ids=lambda speed: f"{speed['what']} {speed['against']}"[:60])
def test_a_speed_is_what_its_benchmark_measured(speed: dict[str, str]) -> None:
    rows = json.loads((PROJECT / speed["link"]).with_name("result.json").read_text())["rows"]
    words = speed["what"].split(", ")
    ratios = [
        row["ratio"]
        for row in rows
        if row["contender"] == speed["against"]
        and row["phase"] == words[-1]
        and all(word in row["case"] for word in words[1:-1])
    ]
    assert ratios
    for printed, measured in ((speed["low"], min(ratios)), (speed["high"], max(ratios))):
        assert printed == f"{measured:.{0 if measured >= 9.95 else 1}f}"


def test_every_published_sweep_is_listed_and_reproducible() -> None:
    listed = (PUBLISHED / "README.md").read_text()
    folders = [path.parent for path in PUBLISHED.glob("*/provenance.json")]
    assert folders
    for folder in folders:
        record = json.loads((folder / "provenance.json").read_text())
        assert f"({folder.name}/table.md)" in listed and record["command"].startswith("ablate run ")
        assert (folder / "index.html").is_file() and not record["missing"]
