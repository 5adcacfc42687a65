"""Sweeps of benchmarks: groups that are measured in turns, one at a time, on nodes of their own; and their report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.store import RunStore
from reports.subject import load_subject
from sweeps import actions
from sweeps.config import ResourcesConfig
from sweeps.definition import load_sweep, sweep_names
from sweeps.planner import plan
from sweeps.preview import preview
from sweeps.slurm_script import array_script
from tests.sweeps.conftest import WORKER
from tests.sweeps.steps import Make

LAYERS = {"name": "layer", "key": "benchmark.layer", "values": ["attention", "bi_mamba_v2"]}
LENGTHS = {"name": "length", "key": "benchmark.length", "values": [16, 64]}
WIDTHS = {"name": "width", "key": "generator.width", "values": [32, 64]}
SMALL = {"benchmark.name": "layer", "benchmark.width": 32, "benchmark.heads": 2}
REPORT = {"rows": ["layer", "length"], "columns": ["forward_seconds"], "baseline": {"layer": "attention"}}


@pytest.fixture
def timings(make_sweep: Make) -> str:
    scales = {"demo": {"preset": "", "overrides": SMALL}}
    return make_sweep(measure="benchmark", in_turns=["layer"], axes=[LAYERS, LENGTHS], scales=scales, report=REPORT)


def test_contenders_form_a_group_each_length_its_own(timings: str, trainings: Callable, root: Path) -> None:
    planned = plan(timings)
    pairs = [[cell.labels["layer"] for cell in group.cells] for group in planned.groups()]
    assert pairs == [["attention", "bi_mamba_v2"]] * 2
    assert len({cell.eval_id for cell in planned.cells}) == 4 and not any(cell.run_id for cell in planned.cells)
    part = plan(timings, "demo", ["layer=attention"])
    assert [group.id for group in part.groups()] == [group.id for group in planned.groups()]
    assert actions.run(timings, worker=WORKER) == 0
    assert {state.describe() for state in plan(timings).states().values()} == {"done"}
    assert trainings() == ["attention@16", "attention@64"], "one worker a group"
    assert not (root / "runs").exists()
    assert actions.run(timings, worker=WORKER) == 0 and len(trainings()) == 2


def test_back_ends_that_the_environment_forces_are_other_cells(
    timings: str, trainings: Callable, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ABLATE_KERNELS", raising=False)
    root.mkdir(exist_ok=True)  # where plans are remembered
    free = plan(timings)
    monkeypatch.setenv("ABLATE_KERNELS", "torch")
    forced = plan(timings)
    assert not {cell.eval_id for cell in free.cells} & {cell.eval_id for cell in forced.cells}
    assert forced.cells[0].config.runtime.kernels == "torch", "whatever the environment where it runs"
    assert actions.run(timings, worker=WORKER) == 0 and len(trainings()) == 2
    assert {state.describe() for state in plan(timings).states().values()} == {"done"}
    monkeypatch.delenv("ABLATE_KERNELS")
    assert [cell.eval_id for cell in plan(timings).cells] == [cell.eval_id for cell in free.cells]
    assert {state.describe() for state in plan(timings).states().values()} == {"missing"}


def test_other_back_ends_are_another_sweep_whose_report_says_so(timings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed or from the environment: neither takes the place of the report without them."""
    monkeypatch.delenv("ABLATE_KERNELS", raising=False)
    typed = load_subject(timings, overrides=["runtime.kernels=torch", "runtime.threads=1"])
    assert typed.slug != load_subject(timings).slug
    assert typed.command.endswith("--scale demo runtime.kernels=torch")
    assert load_subject(timings, overrides=["runtime.kernels=auto", "runtime.threads=1"]).slug != typed.slug
    monkeypatch.setenv("ABLATE_KERNELS", "torch")
    for words in ([], ["runtime.kernels=auto"]):
        forced = load_subject(timings, overrides=words)
        assert (forced.slug, forced.command) == (typed.slug, typed.command)
        assert plan(timings, overrides=words).title.endswith("--scale demo runtime.kernels=torch")
    assert plan(timings, overrides=["runtime.kernels=cpp"]).cells[0].config.runtime.kernels == "cpp"


def test_a_sweep_over_back_ends_and_one_that_the_environment_forces(
    make_sweep: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABLATE_KERNELS", "torch")
    scale = {"preset": "", "overrides": {"benchmark.name": "layer"}}
    kernels = {"name": "kernels", "key": "runtime.kernels", "values": ["auto", "cpp"]}
    path = make_sweep(measure="benchmark", axes=[kernels], scales={"demo": scale}, report={})
    with pytest.raises(UserError, match="cells of sweep tiny set runtime.kernels themselves: unset ABLATE_KERNELS"):
        plan(path)
    scale["overrides"]["runtime.kernels"] = "cpp"
    path = make_sweep("own", measure="benchmark", axes=[LAYERS], scales={"demo": scale}, report={})
    assert {cell.config.runtime.kernels for cell in plan(path).cells} == {"cpp"}


def test_seeds_are_repetitions(timings: str) -> None:
    planned = plan(timings, "demo", ["seeds=0,1"])
    assert len(planned.groups()) == 4 and len({cell.eval_id for cell in planned.cells}) == 8


def test_timings_never_run_side_by_side(timings: str) -> None:
    with pytest.raises(UserError, match="one at a time: leave --jobs 2 out"):
        actions.run(timings, worker=WORKER, jobs=2)
    text = dict(title="t", name="t", uid="u", tasks=Path("t"), count=2, parallel=0, logs=Path("l"), code=Path("c"))
    script = array_script(**text, resources=ResourcesConfig(), processes=1, worker=("w",), exclusive=True)
    assert "#SBATCH --exclusive\n" in script


def test_plans_count_the_layers_themselves(timings: str) -> None:
    found = preview(plan(timings))
    sizes = {cell["cell"]: cell["flops"] for cell in found["cells"]}
    assert sizes["layer=bi_mamba_v2,length=64"] > 3 * sizes["layer=bi_mamba_v2,length=16"]
    assert found["trainings"] == 0 and found["cost"] is None


def test_other_hardware_is_flagged(timings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert actions.run(timings, overrides=["layer=attention"], worker=WORKER) == 0
    monkeypatch.setenv("FAKE_CPU", "another")
    assert actions.run(timings, worker=WORKER) == 0
    subject = load_subject(timings)
    assert {(flag.fact, flag.value) for flag in subject.flags} == {("hardware", "another")}
    assert any("Medians" in text for _, text in subject.table.notes)
    assert not any("training seed" in text for _, text in subject.table.notes)


def test_a_failed_timing_is_retried_alone(timings: str, root: Path) -> None:
    planned = plan(timings)
    work = RunStore(root).prepare_benchmark(planned.cells[0].config)
    with pytest.raises(MemoryError), work.claim():
        raise MemoryError("out of memory")
    assert plan(timings).states()[planned.cells[0].name].status.cause == "oom"
    assert actions.run(timings, worker=WORKER) == 1
    assert actions.retry(timings, worker=WORKER) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measure": "evaluation"}, "in_turns is for timings"),
        ({"in_turns": ["layr"]}, "Did you mean 'layer'"),
        ({"search": {"space": []}}, "search tunes what is evaluated"),
        ({"scales": {"demo": {"preset": ""}}, "axes": [WIDTHS], "in_turns": []}, "does not say which"),
    ],
)
def test_wrong_definitions_are_explained(make_sweep: Make, changes: dict, message: str) -> None:
    scales = {"demo": {"preset": "", "overrides": SMALL}}
    whole = {"measure": "benchmark", "in_turns": ["layer"], "axes": [LAYERS], "scales": scales, "report": {}}
    with pytest.raises(UserError, match=message):
        plan(make_sweep(**{**whole, **changes}))


def test_trainings_do_not_set_benchmarks(make_sweep: Make) -> None:
    with pytest.raises(UserError, match="needs measure: benchmark"):
        plan(make_sweep(axes=[LENGTHS], scales={"demo": {"preset": "", "overrides": SMALL}}, report={}))


@pytest.mark.parametrize("name", [n for n in sweep_names() if load_sweep(n).config.measure == "benchmark"])
def test_axes_of_named_timings_change_what_is_timed(name: str, tmp_path: Path) -> None:
    planned = plan(name, root=tmp_path)
    assert not planned.duplicates
    assert planned.cells[0].config.benchmark.name != "none"
