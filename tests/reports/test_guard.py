"""The comparability guard, by mutation: change one thing in one run, and exactly that is flagged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.provenance import code_of
from reports.guard import guard
from reports.provenance import origin_lines, origin_note, provenance
from tests.reports import fakes

AGAIN = fakes.provenance_of(fakes.cells_of()[0])
"""Of samples that were measured once more, by the same code on the same machine."""
MUTATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "steps": ({"run__step": 300, "run__max_steps": 300, "config__trainer__max_steps": 300}, "trainer.max_steps"),
    "data": ({"run__provenance__data_fingerprint": "0" * 64}, "data.fingerprint"),
    "tokenizer": ({"run__provenance__tokenizer_fingerprint": "0" * 64}, "tokenizer.fingerprint"),
    "samples": ({"evaluation__protocol__num_samples": 64}, "evaluation.num_samples"),
    "sampler": ({"evaluation__protocol__sampler__steps": 8}, "sampler.steps"),
    "guidance in the stored configuration": (
        {"config__sampler__guidance": 1.5, "evaluation__protocol__sampler": {}},
        "",
    ),
    "reference": ({"evaluation__protocol__reference_fingerprint": "0" * 64}, "reference images"),
    "extractor": ({"evaluation__protocol__extractor_sha256": "0" * 64}, "feature extractor"),
    "code": (
        {"run__provenance__git_commit": "f" * 40, "evaluation__provenance__git_commit": "f" * 40},
        "code version",
    ),
    "code of the evaluation": ({"evaluation__provenance__git_commit": "f" * 40}, "code version of the evaluation"),
    "uncommitted changes": (
        {f"{part}__provenance__git_diff_sha256": "a" * 64 for part in ("run", "evaluation")},
        "code version",
    ),
    "kernel": ({"run__provenance__backends__selective_scan": "torch"}, "kernel selective_scan"),
    "kernel of the evaluation": (
        {"evaluation__provenance__backends__selective_scan": "torch"},
        "kernel selective_scan of the evaluation",
    ),
    "precision": (
        {f"{part}__provenance__precision": "bf16" for part in ("run", "evaluation")},
        "trainer.precision",
    ),
    "precision of the evaluation": (
        {"evaluation__provenance__precision": "bf16"},
        "precision of the evaluation",
    ),
    "hardware": ({f"{part}__provenance__hardware__gpus": ["A100"] for part in ("run", "evaluation")}, "hardware"),
    "hardware of the evaluation": (
        {"evaluation__provenance__hardware__gpus": ["A100"]},
        "hardware of the evaluation",
    ),
    "torch": ({f"{part}__provenance__versions__torch": "2.8.0" for part in ("run", "evaluation")}, "torch"),
    "torch of the evaluation": ({"evaluation__provenance__versions__torch": "2.8.0"}, "torch of the evaluation"),
    "code of the metrics": (
        {"evaluation__measured_again": {**AGAIN, "git_commit": "f" * 40}},
        "code version of the metrics",
    ),
    "torch of the metrics": (
        {"evaluation__measured_again": {**AGAIN, "versions": {"torch": "2.8.0"}}},
        "torch of the metrics",
    ),
    "seed": ({"run__provenance__seed": 7, "config__seed": 7}, "seed"),
    "seed of the samples": ({"config__evaluation__seed": 7}, "evaluation.seed"),
    "learning rate": ({"config__optim": {"lr": 0.1}}, "optim.lr"),
}


def mutated(root: Path, changes: dict[str, Any], victim: str = "group_v2", **parts: Any) -> Any:
    for cell in fakes.cells_of():
        scheme = cell.labels["hybrid_scheme"]
        fakes.write_run(root, cell, fakes.FD[scheme], **(changes if scheme == victim else {}))
    return fakes.subject(root, **parts)


def test_a_clean_sweep_has_no_flags(tmp_path: Path) -> None:
    assert fakes.finished(tmp_path).flags == []


def test_the_decoder_of_a_trainings_sample_grids_is_no_difference(tmp_path: Path) -> None:
    for cell in fakes.cells_of():
        scheme = cell.labels["hybrid_scheme"]
        decoder = {"run__provenance__backends__mamba2_decode": "cpp" if scheme == "group_v2" else "torch"}
        fakes.write_run(tmp_path, cell, fakes.FD[scheme], **decoder)
    assert fakes.subject(tmp_path).flags == []


def test_a_second_measurement_by_the_same_code_is_no_difference(tmp_path: Path) -> None:
    assert mutated(tmp_path, {"evaluation__measured_again": AGAIN}).flags == []


def test_the_metrics_of_code_that_is_known_to_be_the_same_are_no_difference(tmp_path: Path) -> None:
    """Trained and sampled by one version, measured again by another that gives the same numbers."""
    for other in (False, True):
        again = {"evaluation__measured_again": {**AGAIN, "git_commit": "f" * 40}}
        found = mutated(tmp_path, again)
        codes = frozenset({code_of(AGAIN), "f" * 10})
        same = {("maskmamba", code): codes for code in codes} if other else {}
        assert bool(guard(found.rows, found.declared, {}, same)) != other


def test_the_page_and_provenance_say_what_measured(tmp_path: Path) -> None:
    found = mutated(tmp_path, {"evaluation__measured_again": {**AGAIN, "git_commit": "f" * 40}})
    victim = next(record for record in found.records if record.labels["hybrid_scheme"] == "group_v2")
    assert ("code of the metrics", "f" * 10) in origin_lines(victim)
    stored = provenance(found)["evaluations"]
    assert stored[victim.eval_id]["measured_again"]["git_commit"] == "f" * 40
    assert sum("measured_again" in evaluation for evaluation in stored.values()) == 1
    assert "f" * 10 in origin_note(found)


def parts_of(share: str, **other: Any) -> list[dict[str, Any]]:
    """Two attempts at a training, or two processes that drew samples, the first with something else."""
    shares = [{"images": 100}, {"images": 412}] if share == "sampled_by" else [{"first_step": 0, "last_step": 17}] * 2
    shares[1] = {"first_step": 17, "last_step": 400} if share == "trained_by" else shares[1]
    return [{**AGAIN, **shares[0], **other}, {**AGAIN, **shares[1]}]


MIXTURES: dict[str, tuple[dict[str, Any], str]] = {
    "code": ({"git_commit": "f" * 40}, "code version: ffffffffff and 0123456789"),
    "precision": ({"precision": "bf16"}, "precision: bf16 and fp32"),
    "torch": ({"versions": {"torch": "2.8.0"}}, "torch: 2.8.0 and 2.9.0"),
    "hardware": ({"hardware": {"gpus": ["A100", "A100"]}}, "hardware: A100 and Test CPU"),
    "kernels": ({"backends": {"selective_scan": "torch"}}, "kernel selective_scan: torch and cpp"),
}
"""What two makers of one training, or of one evaluation's samples, do not share -> what is said of it."""


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("share", ["trained_by", "sampled_by"])
def test_what_is_not_of_one_piece_is_flagged_even_in_every_row(tmp_path: Path, share: str, name: str) -> None:
    other, said = MIXTURES[name]
    part = "run" if share == "trained_by" else "evaluation"
    expected = f"mixed {said}" if part == "run" else f"mixed {said.replace(':', ' of the evaluation:')}"
    expected = expected.replace("mixed precision:", "mixed trainer.precision:")
    for victim, rows in (("group_v2", [1]), (None, [0, 1, 2, 3])):
        root = tmp_path / str(victim)
        for cell in fakes.cells_of():
            odd = victim in (None, cell.labels["hybrid_scheme"])
            fakes.write_run(root, cell, **({f"{part}__provenance__{share}": parts_of(share, **other)} if odd else {}))
        flags = fakes.subject(root).flags
        assert [(flag.row, flag.text) for flag in flags] == [(row, expected) for row in rows]


def test_attempts_that_differ_in_nothing_that_counts_are_no_difference(tmp_path: Path) -> None:
    """On another host, with fewer operations: one ended before its first sample grid."""
    other = {"hardware": {**AGAIN["hardware"], "host": "there"}, "backends": {"selective_scan": "cpp"}}
    assert mutated(tmp_path, {"run__provenance__trained_by": parts_of("trained_by", **other)}).flags == []


def test_a_mixture_of_code_that_is_known_to_be_the_same_is_none(tmp_path: Path) -> None:
    parts = parts_of("trained_by", git_commit="f" * 40)
    found = mutated(tmp_path, {"run__provenance__trained_by": parts})
    codes = frozenset({"f" * 10, "0123456789"})
    assert guard(found.rows, found.declared, {}, {("maskmamba", code): codes for code in codes}) == []


def test_steps_of_before_there_were_records_are_of_other_code(tmp_path: Path) -> None:
    parts = [{"first_step": 0, "last_step": 17}, parts_of("trained_by")[1]]
    (flag,) = mutated(tmp_path, {"run__provenance__trained_by": parts}).flags
    assert flag.text == "mixed code version: not recorded and 0123456789"


def test_samples_that_other_code_drew_are_told_from_their_measurement(tmp_path: Path) -> None:
    """All of them were there when the evaluation was taken up again, by the code of the training."""
    found = mutated(tmp_path, {"evaluation__provenance__sampled_by": parts_of("sampled_by", git_commit="f" * 40)[:1]})
    assert {(flag.row, flag.fact, flag.value) for flag in found.flags} == {
        (1, "code version of the evaluation", "f" * 10),
        (1, "code version of the metrics", "0123456789"),
    }


def test_the_share_of_each_version_is_told(tmp_path: Path) -> None:
    changes = {
        f"{part}__provenance__{share}": parts_of(share, git_commit="f" * 40, precision="bf16")
        for part, share in (("run", "trained_by"), ("evaluation", "sampled_by"))
    }
    found = mutated(tmp_path, changes)
    victim = next(record for record in found.records if record.labels["hybrid_scheme"] == "group_v2")
    lines = dict(origin_lines(victim))
    assert lines["code"] == "ffffffffff (steps 0 to 17); 0123456789 (steps 17 to 400)"
    assert lines["precision"] == "bf16 (steps 0 to 17); fp32 (steps 17 to 400)"
    assert lines["code of the samples"] == "ffffffffff (100 images); 0123456789 (412 images)"
    assert lines["versions"] == "python 3.12.0, torch 2.9.0" and "f" * 10 in origin_note(found)


@pytest.mark.parametrize("name", MUTATIONS)
def test_one_change_is_flagged_at_its_row_and_only_there(tmp_path: Path, name: str) -> None:
    changes, fact = MUTATIONS[name]
    flags = mutated(tmp_path, changes).flags
    assert {flag.row for flag in flags} == {1}
    assert not fact or [flag.fact for flag in flags] == [fact]


def test_the_flag_is_a_footnote_of_that_row(tmp_path: Path) -> None:
    table = mutated(tmp_path, MUTATIONS["steps"][0]).table
    text = "not comparable: trainer.max_steps is 300, elsewhere 400"
    assert ("a", text) in table.notes
    assert [row.entries[0].marks for row in table.rows] == [(), ("a",), (), ()]


def test_in_a_tie_the_baseline_is_right(tmp_path: Path) -> None:
    cells = [cell for cell in fakes.cells_of() if cell.labels["hybrid_scheme"] in ("serial_v1", "serial_v2")]
    for cell in cells:
        steps = 300 if cell.labels["hybrid_scheme"] == "serial_v1" else 400
        fakes.write_run(tmp_path, cell, config__trainer__max_steps=steps, run__step=steps, run__max_steps=steps)
    flags = fakes.subject(tmp_path, cells).flags
    assert [(flag.row, flag.value, flag.usual) for flag in flags] == [(0, "300", "400")]


def test_seeds_are_held_against_the_plan_and_resamples_change_nothing(tmp_path: Path) -> None:
    (flag,) = mutated(tmp_path / "seed", MUTATIONS["seed"][0]).flags
    assert flag.text == "seed is 7 (planned: 0), elsewhere as planned"
    assert mutated(tmp_path / "bootstrap", {"config__evaluation__bootstrap": 0}).flags == []


def test_what_the_sweep_declares_is_not_flagged(tmp_path: Path) -> None:
    changes = MUTATIONS["sampler"][0] | {"config__sampler__steps": 8}
    assert mutated(tmp_path, changes, declared=[fakes.KEY, "sampler.steps"]).flags == []


def test_samplers_that_are_compared_make_equally_many_steps(tmp_path: Path) -> None:
    """The name alone is varied; where generators differ as a whole, steps mean another thing in each."""
    changes = MUTATIONS["sampler"][0] | {"config__sampler__steps": 8}
    assert [f.fact for f in mutated(tmp_path / "a", changes, declared=[fakes.KEY, "sampler.name"]).flags] == [
        "sampler.steps"
    ]
    declared = [fakes.KEY, "sampler.name", "generator.name"]
    assert mutated(tmp_path / "b", changes, declared=declared).flags == []
    assert mutated(tmp_path, MUTATIONS["data"][0], declared=[fakes.KEY, "data.styles"]).flags == []


def test_an_operation_that_a_row_does_not_use_is_no_difference(tmp_path: Path) -> None:
    assert mutated(tmp_path, {"run__provenance__backends": {}}).flags == []


def test_a_seed_that_stands_apart_flags_its_row(tmp_path: Path) -> None:
    cells = fakes.cells_of((0, 1))
    for cell in cells:
        odd = cell.name == "hybrid_scheme=serial_v1,seed=1"
        fakes.write_run(tmp_path, cell, **(MUTATIONS["kernel"][0] if odd else {}))
    subject = fakes.subject(tmp_path, cells)
    assert [(f.row, f.value, f.seeds) for f in subject.flags] == [(2, "torch", (1,))]
    assert subject.flags[0].text == "kernel selective_scan is torch in seed 1, elsewhere cpp"
    assert provenance(subject)["flags"][0]["seeds"] == [1]


def test_starts_are_compared_within_a_seed(tmp_path: Path) -> None:
    cells = fakes.cells_of((0, 1))
    for cell in cells:
        fakes.write_run(tmp_path, cell, config__trainer__init_fingerprint=f"start of seed {cell.seed}")
    assert not fakes.subject(tmp_path, cells).flags
    odd = cells[-1]
    fakes.write_run(tmp_path, odd, config__trainer__init_fingerprint="another start")
    (flag,) = fakes.subject(tmp_path, cells).flags
    assert flag.fact == "trainer.init_fingerprint" and "another start" in flag.value


def test_a_start_that_a_sweep_varies_is_meant_to_differ(tmp_path: Path) -> None:
    changes = {"config__trainer__init_fingerprint": "0" * 64}
    assert [flag.fact for flag in mutated(tmp_path / "a", changes).flags] == ["trainer.init_fingerprint"]
    found = mutated(tmp_path / "b", changes, declared=[fakes.KEY, "trainer.init_from"])
    assert found.flags == [] and "trainer.init_fingerprint: - → 000000000000" in found.one_factor[1].text


def test_one_factor_statement_and_parameter_deviation(tmp_path: Path) -> None:
    found = mutated(tmp_path, {"run__parameters": 4_206_000, "config__generator__width": 384}).one_factor
    assert [item.row for item in found] == [0, 1, 2]
    assert found[0].text == "only generator.hybrid_scheme: serial_v2 → group_v1"
    assert found[1].text.startswith("2 settings differ: generator.hybrid_scheme: serial_v2 → group_v2, generator.width")
    assert found[1].parameters == pytest.approx(1.0) and found[1].flops is None
    note = "Not equal in parameters to the baseline, serial_v2: group_v2 +100%."
    assert ("", note) in mutated(tmp_path, {"run__parameters": 4_206_000}).table.notes


@pytest.mark.parametrize("missing", ["serial_v2", "group_v1"])
def test_a_row_that_has_not_run_differs_in_what_is_planned(tmp_path: Path, missing: str) -> None:
    cells = fakes.cells_of()
    for cell in cells:
        if cell.labels["hybrid_scheme"] != missing:
            fakes.write_run(tmp_path, cell)
    found = fakes.subject(tmp_path, cells).one_factor
    assert found[0].text == "only generator.hybrid_scheme: serial_v2 → group_v1"


def test_sizes_follow_from_the_parts_that_are_varied(tmp_path: Path) -> None:
    changes = {"config__generator__grid_size": 16, "config__tokenizer__image_size": 64}
    declared = [fakes.KEY, "tokenizer.image_size"]
    assert mutated(tmp_path / "a", changes, declared=declared).flags == []
    found = {flag.fact for flag in mutated(tmp_path / "b", changes).flags}
    assert found == {"generator.grid_size", "tokenizer.image_size"}


def test_what_another_generator_brings_along_is_not_a_setting_that_differs(tmp_path: Path) -> None:
    other = {"name": "uvit", "width": 384, "cross_attention": True, "hybrid_scheme": "group_v2"}
    found = mutated(tmp_path, {"config__generator": other}).one_factor[1]
    assert set(found.changes) == {"generator.name", "generator.width", fakes.KEY}


def test_kinds_of_benchmark_time_different_parts(tmp_path: Path) -> None:
    changes = {"config__objective": {"name": "masked"}}
    assert mutated(tmp_path / "a", changes, declared=[fakes.KEY, "benchmark.name"]).flags == []
    assert [flag.fact for flag in mutated(tmp_path / "b", changes).flags] == ["objective.name"]
