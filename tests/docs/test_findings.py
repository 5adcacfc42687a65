"""The findings in README.md are those of the published reports: claims, judgements, and every number."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PUBLISHED = PROJECT / "reports" / "published"
ROW = re.compile(
    r"^\| (?P<claim>[^|]+) \| (?P<word>[a-z ]+) \| (?P<here>[^|]+) \| \[`[^`]+`\]\((?P<link>[^)]+)\) \|$", re.M
)
"""| what the paper says | judgement | what was measured | [`sweep`](page) |"""


def _findings() -> list[dict[str, str]]:
    section = (PROJECT / "README.md").read_text().partition("\n## What came out\n")[2].partition("\n## ")[0]
    return [found.groupdict() for found in ROW.finditer(section)]


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


def test_every_published_sweep_is_listed_and_reproducible() -> None:
    listed = (PUBLISHED / "README.md").read_text()
    folders = [path.parent for path in PUBLISHED.glob("*/provenance.json")]
    assert folders
    for folder in folders:
        record = json.loads((folder / "provenance.json").read_text())
        assert f"({folder.name}/table.md)" in listed and record["command"].startswith("ablate run ")
        assert (folder / "index.html").is_file() and not record["missing"]
