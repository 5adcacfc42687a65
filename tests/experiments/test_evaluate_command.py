"""`ablate evaluate`: once, and again on the samples that are there."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.store import RunStore
from lightning_modules.metrics.pixels import PIXEL_MEASURES
from tests.experiments.conftest import QUICK, only_run


def test_evaluate_measures_once(ablate, trained: Path) -> None:
    code, out, err = ablate("evaluate", only_run(trained), *QUICK, "--root", trained)
    assert code == 0, err
    for shown in (r"^KID-EffLite0 \(x1000\) +\d+\.\d ", r"^Precision-EffLite0 \(%\) +\d+\.\d "):
        assert re.search(shown, out, re.MULTILINE), "as tables and ablate compare print it"
    (folder,) = (trained / "runs" / only_run(trained) / "evaluations").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert {"fd_efflite0", "kid_efflite0", "memorisation_rate", "seconds_per_image"} <= result["metrics"].keys()
    assert not re.search(r"\bfid\b", json.dumps(result), re.IGNORECASE)
    assert result["protocol"]["num_samples"] == 36 and result["protocol"]["sampler"]["steps"] == 2
    with np.load(folder / "samples.npz") as samples:
        assert samples["arr_0"].shape == (36, 32, 32, 3) and np.bincount(samples["labels"]).tolist() == [4] * 9
    before = (folder / "result.json").stat().st_mtime_ns
    assert ablate("evaluate", only_run(trained), *QUICK, "--root", trained)[0] == 0
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_evaluate_again_measures_the_samples_that_are_there(ablate, trained: Path, monkeypatch) -> None:
    words = ("evaluate", only_run(trained), *QUICK, "--root", trained)
    code, _, err = ablate(*words, "evaluation.seed=3", "--again")
    assert code == 2 and "no finished evaluation" in err
    assert ablate(*words)[0] == 0
    code, _, err = ablate(*words, "evaluation.seed=3", "--again")
    assert code == 2 and err.rstrip().endswith("There are samples of: evaluation.seed=0."), err
    (path,) = (p for p in (trained / "runs" / only_run(trained) / "evaluations").glob("*/result.json"))
    before = json.loads(path.read_text())
    monkeypatch.setitem(PIXEL_MEASURES, "brightness", lambda samples, real: float(samples.mean()))
    code, out, err = ablate(*words, "--again")
    after = json.loads(path.read_text())
    assert code == 0 and re.search(r"^brightness +\d", out, re.MULTILINE), err
    brightness = after["metrics"].pop("brightness"), after["protocol"]["floor"].pop("brightness")
    assert 0 < brightness[0] < 256 and 0 < brightness[1] < 256
    assert after.pop("measured_again")["git_commit"] == before["provenance"]["git_commit"]
    assert after == before
    own = brightness[0]  # of the samples, not of the real images in their place
    monkeypatch.setitem(PIXEL_MEASURES, "brightness", lambda x, real: math.nan if float(x.mean()) == own else 1.0)
    code, _, err = ablate(*words, "--again")
    assert code == 0, err
    lost = json.loads(path.read_text())
    assert lost["not_finite"] == ["brightness"] and "brightness" not in lost["metrics"]
    samples = path.with_name("samples.npz")
    whole = samples.read_bytes()
    for damaged in (b"", b"PK\x03\x04", whole[: len(whole) // 2], whole[:200] + bytes(400) + whole[600:]):
        samples.write_bytes(damaged)
        code, _, err = ablate(*words, "--again")
        assert code == 2 and f"Cannot read {samples}" in err and "leave --again out" in err, err
    samples.write_bytes(whole)


def test_evaluate_again_takes_the_newest_evaluation_and_names_others_as_they_are_typed(ablate, trained, tmp_path):
    run, file = RunStore(trained).find(only_run(trained)), tmp_path / "reference.npz"
    for i in range(12):
        (tmp_path / "train" / "one").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (20 * i, 99, 255 - 20 * i)).save(tmp_path / "train" / "one" / f"{i}.png")
    made = ("reference", "folder", "--source", tmp_path, "--split", "train", "--size", 32, "--workers", 0)
    assert ablate(*made, "--out", file)[0] == 0
    reference = ["evaluation.num_samples=9", f"evaluation.reference={file}"]
    for words in (QUICK, ["sampler.steps=2", "runtime.threads=1", *reference]):
        assert ablate("evaluate", run.id, *words, "--root", trained)[0] == 0
    newest = run.newest_evaluation()
    code, out, err = ablate("evaluate", run.id, "--again", "--root", trained)
    assert code == 0 and f"In {newest.folder}" in out and "measured_again" in newest.result(), err
    code, _, err = ablate("evaluate", run.id, "evaluation.seed=3", "--again", "--root", trained)
    named = f"evaluation.num_samples=9 evaluation.reference={file} evaluation.seed=0"
    assert code == 2 and "fingerprint" not in err
    given = [shlex.split(one) for one in err.rpartition("There are samples of: ")[2].rstrip(".\n").split("; ")]
    assert sorted(named.split()) in [sorted(words) for words in given], err
    for words in given:  # as printed, they find their samples
        assert ablate("evaluate", run.id, *words, "--again", "--root", trained)[0] == 0


def test_evaluate_may_not_change_the_training(ablate, trained: Path) -> None:
    code, _, err = ablate("evaluate", only_run(trained), "optim.lr=1", "--root", trained)
    assert code == 2 and "optim.lr" in err and "sampler" in err
