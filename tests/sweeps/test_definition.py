"""Sweep files with mistakes in them: each is refused in one sentence, before anything is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.errors import UserError
from sweeps.config import time_limit
from sweeps.definition import read_sweep
from sweeps.request import parse_request

SWEEP = """\
name: mine
title: Mine
reproduces: Nothing.
scales: {demo: {preset: maskmamba/demo}}
axes:
  - {name: mixer, key: generator.mixer, values: [bi_mamba, attention]}
  - {name: d_state, key: generator.bi_mamba.d_state, values: [8, 16], when: {mixer: bi_mamba}}
  - {name: flip, key: data.flip, values: [true, false]}
report: {rows: [mixer, d_state, flip], columns: [val/loss]}
"""


def sweep_file(folder: Path, text: str = SWEEP) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("title: Yours\n", "the key 'title' is there twice, again in line 10"),
        ("exclude: [{when: {mixer: attention, d_state: 8}, reason: no state}]\n", "exclude speaks of cells with mixer"),
        ("equal_compute: {when: {mixer: attention, d_state: 8}, to: {mixer: bi_mamba}}\n", "equal_compute speaks of"),
        ("zip: mixer\n", "zip must be a list, such as "),
        ("zip: [[mixer, flip], [flip, mixer]]\n", "zip names the axis 'mixer' twice"),
        ("exlude: []\n", "exlude"),
        ("? [a, b]\n: c\n", "not valid YAML: .*unhashable key"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_sweep(sweep_file(tmp_path, SWEEP + more))
    assert "\n" not in str(error.value) and str(tmp_path / "mine.yaml") in str(error.value)


def test_a_baseline_names_axes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="report.baseline=3 must say which label of which axes"):
        read_sweep(sweep_file(tmp_path, SWEEP.replace("report: {", "report: {baseline: 3, ")))


def test_times_need_no_quotes(tmp_path: Path) -> None:
    """YAML 1.1 has seconds for 4:00:00, which Slurm would take for minutes."""
    resources = "{time: 4:00:00, evaluation: {time: 1:00:00}}"
    text = SWEEP.replace("{preset: maskmamba/demo}", f"{{preset: maskmamba/demo, resources: {resources}}}")
    sweep = read_sweep(sweep_file(tmp_path, text))
    found = parse_request(sweep, "demo", [], tmp_path).resources
    assert (found.time, found.evaluation) == ("4:00:00", {"time": "1:00:00"})
    (tmp_path / "slurm.yaml").write_text("time: 24:00:00\nevaluation: {time: 2:30:00}\ngpus: 8\n")
    found = parse_request(sweep, "demo", [], tmp_path).resources
    assert (found.time, found.evaluation, found.gpus) == ("24:00:00", {"time": "2:30:00"}, 8)


def test_a_part_of_a_scale_must_fit_some_cell(tmp_path: Path) -> None:
    part = "{preset: maskmamba/demo, cells: [{when: {mixer: attention, d_state: 8}, set: {seed: 1}}]}"
    with pytest.raises(UserError, match=r"scales.demo.cells speaks of cells with mixer: attention, d_state: 8"):
        read_sweep(sweep_file(tmp_path, SWEEP.replace("{preset: maskmamba/demo}", part)))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserError, match="not valid YAML"):
        read_sweep(path)


def test_a_section_set_whole_is_its_keys_one_by_one(tmp_path: Path) -> None:
    """So that a name picks another part, and tables know which keys a sweep varies."""
    more = ", overrides: {sampler: {name: halton}}, cells: [{when: {flip: true}, set: {optim: {lr: 1}}}]}"
    text = SWEEP.replace("maskmamba/demo}", f"maskmamba/demo{more}")
    text = text.replace("[true, false]", "[true, {value: 0, set: {data: {subset: 9}}}]")
    sweep = read_sweep(sweep_file(tmp_path, text))
    assert sweep.base("demo", {"flip": "true"}) == ("maskmamba/demo", {"sampler.name": "halton", "optim.lr": 1})
    assert sweep.axis("flip").choices[1].overrides == {"data.flip": 0, "data.subset": 9}


def test_words_that_would_be_dropped_are_refused(tmp_path: Path) -> None:
    sweep = read_sweep(sweep_file(tmp_path))
    with pytest.raises(UserError, match="flip is given twice, true and false"):
        parse_request(sweep, "demo", ["flip=true", "flip=false"], tmp_path)
    with pytest.raises(UserError, match="preset is filled in"):
        parse_request(sweep, "demo", ["preset=aim/demo"], tmp_path)
    other = read_sweep(
        sweep_file(
            tmp_path / "an axis may have that name",
            SWEEP.replace("name: flip", "name: preset").replace("d_state, flip]", "d_state, preset]"),
        )
    )
    assert parse_request(other, "demo", ["preset=true"], tmp_path).only == {"preset": ("true",)}


@pytest.mark.parametrize("word", ["flip=true", "flip=[true]", "flip=true,false", "flip=[true, false]"])
def test_labels_are_typed_as_the_file_has_them(tmp_path: Path, word: str) -> None:
    request = parse_request(read_sweep(sweep_file(tmp_path)), "demo", [word], tmp_path)
    assert request.only["flip"] in (("true",), ("true", "false"))


def test_a_label_with_a_comma_or_null_can_be_chosen(tmp_path: Path) -> None:
    text = SWEEP.replace("[true, false]", "[{value: true, label: 'a,b'}, {value: null}]")
    sweep = read_sweep(sweep_file(tmp_path, text))
    assert parse_request(sweep, "demo", ["flip=a,b"], tmp_path).only["flip"] == ("a,b",)
    assert parse_request(sweep, "demo", ["flip=null"], tmp_path).only["flip"] == ("null",)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("resources.gpuz=1", "Unknown key of resources 'gpuz'. Did you mean 'gpus'"),
        ("resources.gpus=x", "resources.gpus=x: Value 'x'"),
        ("resources.evaluation.gpuz=1", "gpuz"),
        ("resources.evaluation={time: 3600}", 'time=3600 must be text, in quotes: {time: "1:00:00"}'),
        ("resources.time=2hours", "resources.time=2hours must be a time as Slurm reads it: MINUTES, .*DAYS-HOURS"),
        ("resources.time=1:2:3:4", "time=1:2:3:4 must be a time"),
        ("resources.time=-5", "time=-5 must be a time"),
        ("resources.evaluation.time=1h", "resources.evaluation.time=1h must be a time"),
        ("resources.efficiency=0", "efficiency=0.0 must be a share of the peak"),
        ("resources.efficiency=nan", "efficiency=nan must be a share of the peak"),
        ("resources.peak_tflops=0", "peak_tflops=0.0 must be above 0"),
    ],
)
def test_resources_are_named(tmp_path: Path, word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_request(read_sweep(sweep_file(tmp_path)), "demo", [word], tmp_path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("0", None),
        ("unlimited", None),
        ("90", 5400),
        ("90:30", 5430),
        ("2:00:01", 7201),
        ("1-2", 93600),
        ("1-2:03", 93780),
        ("1-2:03:04", 93784),
    ],
)
def test_times_are_those_that_slurm_reads(tmp_path: Path, text: str, seconds: int | None) -> None:
    assert time_limit(text) == seconds
    found = parse_request(read_sweep(sweep_file(tmp_path)), "demo", [f"resources.time={text}"], tmp_path).resources
    assert found.time == text


def test_a_site_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "slurm.yaml").mkdir()
    with pytest.raises(UserError, match=r"Cannot read .*slurm.yaml: Is a directory"):
        parse_request(read_sweep(sweep_file(tmp_path)), "demo", [], tmp_path)
