"""What is published: complete sweeps alone, without paths of the machine, with links that lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from markupsafe import escape

from experiments.errors import UserError
from reports import publish
from reports.entry import entry_of
from reports.formats import markdown
from reports.unplaced import Unplaced
from tests.conftest import Ablate
from tests.reports import fakes


def test_complete_sweeps_are_published_and_others_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = replace(fakes.subject(tmp_path / "half"), slug="half-demo")
    origin = {"command": f"ablate execute {tmp_path / 'whole'}/sweeps/x.yaml"}
    for cell in fakes.cells_of((0, 1, 2)):
        more = {"run__provenance": origin, "config__runtime__root": str(tmp_path / "where it ran")}
        fakes.write_run(tmp_path / "whole", cell, 100.0 + cell.seed, **more)
    whole = fakes.subject(tmp_path / "whole", fakes.cells_of((0, 1, 2)))
    monkeypatch.setattr(publish, "find_subjects", lambda root: ([whole, half], ["old-demo: Unknown sweep"]))
    out = tmp_path / "published"
    readme, entries, left_out = publish.publish([tmp_path], out)
    assert entries == [entry_of(whole)]
    assert left_out[0] == "old-demo: Unknown sweep" and "cells done" in left_out[1]
    folder = out / whole.slug
    assert {path.name for path in folder.iterdir()} == {"index.html", "table.md", "table.csv", "provenance.json"}
    for page in (readme, out / "index.html", folder / "index.html"):
        text = page.read_text()
        links = re.findall(r'href="([^"#][^"]*)"', text) + re.findall(r"\]\(([^)]+)\)", text)
        assert all((page.parent / link).is_file() for link in links if not link.startswith(("data:", "http"))), links
    assert all(str(tmp_path) not in path.read_text() for path in out.rglob("*.*"))
    assert "ablate execute outputs/sweeps/x.yaml" in (folder / "provenance.json").read_text()
    assert "3 seeds" in readme.read_text() and "ablate report --publish" in (out / "index.html").read_text()
    stored = json.loads((folder / "provenance.json").read_text())["claims"]
    assert [claim["judgement"] for claim in stored] == [verdict.judgement for verdict in whole.verdicts]
    assert "τ = +1 stays undecided" in readme.read_text().replace("\n", " ")
    before = readme.read_text()
    publish.publish([tmp_path], out)
    assert readme.read_text() == before, "a second time over the first"
    (out / "benchmarks" / "scan").mkdir(parents=True)
    (out / "benchmarks" / "scan" / "table.md").touch()
    publish.publish([tmp_path], out)
    assert "(benchmarks/scan/table.md)" in readme.read_text()


def test_a_definition_of_ones_own_is_published_without_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = replace(fakes.finished(tmp_path / "root"), typed=str(tmp_path / "mine.yaml"))
    monkeypatch.setattr(publish, "find_subjects", lambda root: ([mine], []))
    readme, (entry,), _ = publish.publish([tmp_path], tmp_path / "out")
    assert entry.command == "ablate run mine.yaml --scale demo"
    assert all(str(tmp_path) not in path.read_text() for path in (tmp_path / "out").rglob("*.*"))


def test_no_path_or_name_of_the_machine_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, odd = "/some/dir/ref.npz", "/its own/R&D of o'neil/weights.pth"
    words = (f"evaluation.reference={file}", f"evaluation.inception_weights={odd}")
    for cell in fakes.cells_of():
        evaluation = {"num_samples": 512, "seed": 0, "reference": file, "inception_weights": odd}
        fakes.write_run(tmp_path, cell, 100.0, config__evaluation=evaluation)
    subject = fakes.subject(tmp_path, words=words)
    monkeypatch.setattr(publish, "find_subjects", lambda root: ([subject], []))
    out = tmp_path / "published"
    _, (entry,), _ = publish.publish([tmp_path], out)
    assert entry.words == ["evaluation.reference=ref.npz", "evaluation.inception_weights=weights.pth"]
    texts = {path: path.read_text() for path in out.rglob("*.*")}
    assert len(texts) == 6
    for path, text in texts.items():
        for secret in ("some/dir", "its own", "R&", "neil", '"host"', str(tmp_path)):
            assert secret not in text, (path, secret)
    stored = json.loads((out / subject.slug / "provenance.json").read_text())
    assert all(item["config"]["evaluation.reference"] == "ref.npz" for item in stored["evaluations"].values())
    assert all(item["provenance"]["hardware"]["cores"] == 2 for item in stored["runs"].values())
    assert "evaluation.reference=ref.npz" in (out / subject.slug / "table.md").read_text()


def test_only_paths_are_taken_out_of_a_text() -> None:
    record = {
        "config": {"data.root": "/data", "data.source": "/data/cc3m"},
        "words": ["run x='/a b' y=/c/d"],
        "host": "here",
    }
    unplaced = Unplaced(record, ["/data/outputs"])
    text = "https://host/data my/data </data> in /data/outputs/runs of /data and /data/cc3m, it's /data/other"
    expected = "https://host/data my/data </data> in outputs/runs of data and cc3m, it's data/other"
    assert unplaced.text(text) == expected
    assert unplaced.record(record) == {
        "config": {"data.root": "data", "data.source": "cc3m"},
        "words": ["run x='a b' y=d"],
    }
    assert Unplaced({}, []).text(text) == text


@pytest.mark.parametrize("path", ["/a b/o'neil/x.pth", "/a&b/_c_/x.pth", "/~a/$b*/x.pth"])
@pytest.mark.parametrize("form", [str, shlex.quote, escape, markdown, lambda path: escape(shlex.quote(path))])
def test_a_path_is_found_however_it_is_escaped(path: str, form: Callable[[str], str]) -> None:
    text = Unplaced({"weights": path}, []).text(f"in {form(path)}!")
    assert text.replace("&#39;", "").replace("'", "") == "in x.pth!"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--publish", "out", "--root", "empty"], "No sweep is complete"),
        (["--all", "--publish", "out"], "Name a sweep"),
        (["--publish", "out", "--out", "other"], "leave --out away"),
    ],
)
def test_refusals(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ablate: Ablate) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = ablate("report", *words)
    assert code == 2 and said in error
    assert not (tmp_path / "out").exists()


def test_of_several_roots_the_most_seeds_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, three = fakes.finished(tmp_path / "one"), fakes.finished(tmp_path / "three", (0, 1, 2))
    found = {
        tmp_path / "one": [one],
        tmp_path / "three": [three],
        tmp_path / "half": [fakes.subject(tmp_path / "half")],
    }
    monkeypatch.setattr(publish, "find_subjects", lambda root: (found[root], []))
    _, entries, left_out = publish.publish(list(found), tmp_path / "out")
    assert entries == [entry_of(three)] and not left_out
    with pytest.raises(UserError, match=r"No sweep is complete in .*half \(.*cells done\)"):
        publish.publish([tmp_path / "half"], tmp_path / "nothing")


def test_what_another_machine_published_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runs are not here; the pages, and what leads to them, are."""
    out = tmp_path / "out"
    there = replace(fakes.finished(tmp_path / "there", (0, 1, 2)), slug="there-demo", title="Made elsewhere")
    here = replace(fakes.finished(tmp_path / "here"), slug="here-demo")
    monkeypatch.setattr(publish, "find_subjects", lambda root: ([there], []))
    publish.publish([tmp_path], out)
    before = (out / "there-demo" / "index.html").read_bytes()
    monkeypatch.setattr(publish, "find_subjects", lambda root: ([here], []))
    readme, entries, left_out = publish.publish([tmp_path], out)
    assert [entry.slug for entry in entries] == ["here-demo", "there-demo"] and not left_out
    assert (out / "there-demo" / "index.html").read_bytes() == before
    for page in (readme, out / "index.html"):
        assert "Made elsewhere" in page.read_text() and "here-demo/" in page.read_text()
    fewer = replace(fakes.finished(tmp_path / "fewer"), slug="there-demo")
    monkeypatch.setattr(publish, "find_subjects", lambda root: ([here, fewer], []))
    _, entries, left_out = publish.publish([tmp_path], out)
    assert [entry.seeds for entry in entries] == [1, 3]
    assert "3 seeds are published, 1 seed would replace them" in left_out[0]
    assert (out / "there-demo" / "index.html").read_bytes() == before
    damaged = out / "there-demo" / "provenance.json"
    damaged.write_text(damaged.read_text()[:100])
    monkeypatch.setattr(publish, "find_subjects", lambda root: ([here], []))
    _, entries, left_out = publish.publish([tmp_path], out)
    assert [entry.slug for entry in entries] == ["here-demo"] and "publish there-demo anew" in left_out[0]
