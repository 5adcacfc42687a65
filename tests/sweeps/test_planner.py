"""Definitions and their expansion to cells."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from experiments.cli import main
from experiments.errors import UserError
from experiments.identity import evaluation_id, run_id
from reports.subject import load_subject
from sweeps.definition import load_sweep, sweep_names
from sweeps.planner import count_cells, plan
from sweeps.registry import register
from tests.sweeps.conftest import PRESET
from tests.sweeps.steps import WIDTH, Make, axis


def labels(path: str, scale: str = "demo", *words: str) -> list[str]:
    return [" ".join(cell.labels.values()) for cell in plan(path, scale, words).cells]


DEPTH = axis("depth", "generator.depth", 2, 4)
GUIDANCE = axis("guidance", "sampler.guidance", 1.0, 2.0, 3.0)
MIXER = axis("mixer", "generator.mixer", "bi_mamba_v2", "attention")

PAIRED = axis("depth", "generator.depth", {"value": 2, "when": {"mixer": "attention"}}, 4)


@pytest.mark.parametrize("name", sweep_names())
def test_named_sweeps_expand_and_their_cells_differ(name: str) -> None:
    sweep = load_sweep(name)
    assert sweep.scale("") == "demo"
    for scale in sweep.config.scales:
        assert count_cells(sweep, scale) > 0


def test_the_published_dimba_is_one_training_in_all_sweeps(tmp_path: Path) -> None:
    """A row that sets a key without reading it would be trained once more under another id."""
    rows = {
        "dimba-adaln": "mamba_adaln=off,adaln=single",
        "dimba-fid": "size=L,model=dimba",
        "dimba-mamba-position": "position=after,residual=standard",
        "dimba-ratio": "ratio=1_1",
    }
    assert len({plan(name, "paper", root=tmp_path).find(cell).run_id for name, cell in rows.items()}) == 1
    many = {cell.config.generator.adaln_groups for cell in plan("dimba-adaln", "paper", ["adaln=group"]).cells}
    assert many == {4}


def test_axes_multiply_in_order(make_sweep: Make) -> None:
    path = make_sweep(axes=[WIDTH, DEPTH], report={})
    assert labels(path) == ["32 2", "32 4", "64 2", "64 4"]
    cells = plan(path).cells
    assert [(c.config.generator.width, c.config.generator.depth) for c in cells] == [(32, 2), (32, 4), (64, 2), (64, 4)]
    assert len({cell.run_id for cell in cells}) == 4
    assert cells[0].name == "width=32,depth=2"


def test_zipped_axes_advance_together(make_sweep: Make) -> None:
    path = make_sweep(axes=[WIDTH, MIXER, DEPTH], zip=[["width", "depth"]], report={})
    assert labels(path) == ["32 2 bi_mamba_v2", "32 2 attention", "64 4 bi_mamba_v2", "64 4 attention"]


def test_labelled_values_set_several_keys(make_sweep: Make) -> None:
    sizes = [
        {"label": "S", "set": {"generator.width": 32, "generator.depth": 2}},
        {"label": "B", "set": {"generator.width": 64, "generator.depth": 4}},
    ]
    scheme = [{"value": "serial_v2", "label": "MM..SS"}]
    path = make_sweep(
        axes=[{"name": "size", "values": sizes}, {"name": "s", "key": "generator.hybrid_scheme", "values": scheme}],
        report={},
    )
    assert labels(path) == ["S MM..SS", "B MM..SS"]
    assert [cell.config.generator.depth for cell in plan(path).cells] == [2, 4]


def test_values_exist_only_where_they_apply(make_sweep: Make) -> None:
    sizes = [
        {"label": "S", "when": {"mixer": "attention"}, "set": {"generator.width": 32}},
        {"label": "S", "when": {"mixer": "bi_mamba_v2"}, "set": {"generator.width": 48}},
        {"label": "L", "when": {"mixer": "attention"}, "set": {"generator.width": 64}},
    ]
    path = make_sweep(axes=[MIXER, {"name": "size", "values": sizes}], report={})
    assert labels(path) == ["bi_mamba_v2 S", "attention S", "attention L"]
    assert [cell.config.generator.width for cell in plan(path).cells] == [48, 32, 64]
    assert load_sweep(path).axis("size").labels == ("S", "L")
    assert labels(path, "demo", "size=L") == ["attention L"]


def test_what_no_value_fits_is_named(make_sweep: Make) -> None:
    """With the reason of an exclusion that speaks of it, if there is one; what was not asked for is no loss."""
    sizes = [{"label": "S", "when": {"mixer": "attention"}, "set": {"generator.width": 32}}]
    axes = [MIXER, {"name": "size", "values": sizes}, DEPTH]
    report = {"rows": ["mixer", "size", "depth"], "columns": ["fd_efflite0"]}
    planned = plan(make_sweep(axes=axes, report=report))
    lost = {"mixer": "bi_mamba_v2"}
    assert [(dict(e.labels), e.reason) for e in planned.excluded] == [(lost, "no value of axis 'size' applies")]
    assert labels(str(planned.sweep.path)) == ["attention S 2", "attention S 4"]
    assert not plan(str(planned.sweep.path), overrides=["mixer=attention"]).excluded
    subject = load_subject(str(planned.sweep.path))
    assert "Left out: mixer bi_mamba_v2 (no value of axis 'size' applies)." in subject.remarks
    exclude = [{"when": {"mixer": "bi_mamba_v2"}, "reason": "too slow"}]
    sizes.append({"label": "L", "when": {"mixer": "attention"}, "set": {"generator.width": 64}})
    named = plan(make_sweep("named", axes=axes, exclude=exclude, report={})).excluded
    assert [(dict(e.labels), e.reason) for e in named] == [(lost, "too slow")]


def test_conditional_axes_exist_only_where_they_apply(make_sweep: Make) -> None:
    conv = axis("conv", "generator.bi_mamba_v2.conv", "standard", "causal", when={"mixer": "bi_mamba_v2"})
    path = make_sweep(axes=[MIXER, conv], report={})
    assert labels(path) == ["bi_mamba_v2 standard", "bi_mamba_v2 causal", "attention"]
    assert plan(path).cells[2].name == "mixer=attention"


def test_exclusions_are_listed_with_their_reason(make_sweep: Make) -> None:
    exclude = [{"when": {"width": 64, "depth": [4]}, "reason": "too large"}]
    planned = plan(make_sweep(axes=[WIDTH, DEPTH], exclude=exclude, report={}))
    assert [(dict(e.labels), e.reason) for e in planned.excluded] == [({"width": "64", "depth": "4"}, "too large")]
    assert len(planned.cells) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["<=4", ">=4"], "The labels '<=4' and '>=4' of axis 'steps' make one name, steps=_=4, of two cells"),
        (["x" * 300], "of a cell has 306 bytes"),
    ],
)
def test_every_cell_has_a_name_of_its_own_that_fits_a_file(make_sweep: Make, values: list[str], message: str) -> None:
    labelled = [{"value": 2 + index, "label": label} for index, label in enumerate(values)]
    with pytest.raises(UserError, match=message):
        plan(make_sweep(axes=[axis("steps", "sampler.steps", *labelled)], report={}))


def test_a_tokenizer_is_no_cell(make_sweep: Make) -> None:
    """Nothing evaluates it: its cell would be missing for ever."""
    scales = {"demo": {"preset": "tokenizer/emoji"}}
    with pytest.raises(
        UserError, match="tokenizer/emoji trains a tokenizer, .*: ablate train tokenizer/emoji KEY=VALUE"
    ):
        plan(make_sweep(axes=[axis("lr", "optim.lr", 0.001)], scales=scales, report={}))


@pytest.mark.parametrize("damaged", ["[]", '{"width=32": 3}', "{"])
def test_damaged_amendments_are_named(make_sweep: Make, damaged: str) -> None:
    path = make_sweep(axes=[WIDTH], report={})
    folder = plan(path).folder
    folder.mkdir(parents=True)
    (folder / "amendments.json").write_text(damaged)
    with pytest.raises(UserError, match="amendments.json is damaged: .* takes back all changes"):
        plan(path)


def test_evaluation_axes_share_their_training(make_sweep: Make) -> None:
    planned = plan(make_sweep(axes=[WIDTH, GUIDANCE], report={}))
    assert [len(group.cells) for group in planned.groups()] == [3, 3]
    assert len({cell.eval_id for cell in planned.cells}) == 6


def test_cells_that_come_to_the_same_are_run_once_and_named(make_sweep: Make) -> None:
    same = axis(
        "scheme", "generator.hybrid_scheme", {"value": "serial_v2", "label": "a"}, {"value": "serial_v2", "label": "b"}
    )
    planned = plan(make_sweep(axes=[same], report={}))
    assert [(left.name, right.name) for left, right in planned.duplicates] == [("scheme=a", "scheme=b")]
    assert [len(group.cells) for group in planned.groups()] == [1]


@pytest.mark.parametrize("sweep", ["dimba-pe-interpolation", "dimba-quality-tuning", "maskmamba-mask-ratio"])
def test_a_cell_of_any_seed_is_the_run_that_its_configuration_makes(sweep: str, root: Path) -> None:
    """Also where the start of its training is trained with the same seed."""
    cells = plan(sweep, "demo", ["seeds=0,1"], root).cells
    assert {cell.seed for cell in cells} == {0, 1}
    for cell in cells:
        config = cell.config
        assert (cell.run_id, cell.eval_id) == (run_id(config), evaluation_id(config)), cell.name


def test_seeds_scales_and_restrictions(make_sweep: Make) -> None:
    scales = {
        "demo": {"preset": "", "only": {"width": [32]}, "overrides": {"trainer.max_steps": 7}},
        "small": {"preset": "", "seeds": [0, 5]},
    }
    path = make_sweep(axes=[WIDTH], scales=scales, report={})
    demo, small = plan(path, "demo"), plan(path, "small")
    assert [(c.name, c.max_steps) for c in demo.cells] == [("width=32", 7)]
    assert [c.name for c in small.cells] == ["width=32,seed=0", "width=32,seed=5", "width=64,seed=0", "width=64,seed=5"]
    assert [c.config.seed for c in small.cells] == [0, 5, 0, 5]
    assert small.cells[0].run_id != small.cells[1].run_id
    for cell in small.cells:
        assert (cell.run_id, cell.eval_id) == (run_id(cell.config), evaluation_id(cell.config))
    assert count_cells(load_sweep(path), "small") == 4


def test_requests_override_restrict_and_repeat(make_sweep: Make) -> None:
    path = make_sweep(axes=[WIDTH], report={})
    plain = plan(path)
    assert labels(path, "demo", "width=64", "seeds=1,2") == ["64", "64"]
    assert plan(path, "demo", ["width=64"]).folder == plain.folder
    changed = plan(path, "demo", ["trainer.max_steps=3", "resources.time=1:00:00"])
    assert changed.cells[0].max_steps == 3 and changed.request.resources.time == "1:00:00"
    assert changed.folder != plain.folder and changed.cells[0].run_id != plain.cells[0].run_id
    assert plan(path, "demo", ["runtime.threads=2"]).folder == plain.folder


@pytest.mark.parametrize("where", ["typed", "preset", "axis", "cells", "scale"])
def test_a_folder_of_its_own_where_validations_may_end_a_training(make_sweep: Make, tmp_path: Path, where: str) -> None:
    patience, words, scale, axes = {"trainer.patience": 2}, [], {"preset": ""}, [WIDTH]
    if where == "typed":
        words = ["trainer.patience=2"]
    elif where == "preset":
        raw = {**PRESET, "trainer": {**PRESET["trainer"], "patience": 2}}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(raw))
        scale = {"preset": str(tmp_path / "own.yaml")}
    elif where == "axis":
        axes = [WIDTH, axis("stop", "trainer.patience", 0, 2)]
    elif where == "cells":
        scale["cells"] = [{"when": {"width": 64}, "set": patience}]
    else:
        scale["overrides"] = patience
    path = make_sweep(axes=axes, scales={"demo": scale}, report={})
    plans = [plan(path, "demo", [*words, f"runtime.val_every={every}"]) for every in (1, 2)]
    assert plans[0].cells[-1].run_id != plans[1].cells[-1].run_id
    assert plans[0].folder != plans[1].folder
    assert plan(path, "demo", [*words, "runtime.val_every=1", "width=32"]).folder == plans[0].folder
    without = make_sweep("without", axes=[WIDTH], report={})
    assert plan(without, "demo", ["runtime.val_every=1"]).folder == plan(without).folder


def test_resources_of_sweep_site_and_command_line(make_sweep: Make, root: Path) -> None:
    resources = {"time": "1:00:00", "gpus": 1, "partition": "theirs"}
    path = make_sweep(axes=[WIDTH], scales={"demo": {"preset": "", "resources": resources}}, report={})
    (root / "slurm.yaml").write_text("{partition: ours, setup: [module load cuda], account: me}")
    found = plan(path, "demo", ["resources.account=you"]).request.resources
    assert (found.time, found.gpus, found.partition, found.account) == ("1:00:00", 1, "ours", "you")
    assert found.setup == ["module load cuda"]
    (root / "slurm.yaml").write_text("{partitoin: ours}")
    with pytest.raises(UserError, match="partitoin"):
        plan(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generator.widht=3"], "Did you mean: 'width'"),
        (["widht=32"], "widht=32: 'widht' is neither an axis of sweep tiny .*Did you mean 'width'. Axes: width;"),
        (["max_steps=5"], "max_steps=5: 'max_steps' is neither .*Did you mean 'trainer.max_steps'. Axes: width;"),
        (["resource.gpus=1"], "Did you mean 'resources.gpus'"),
        (["seed_s=1"], "Did you mean 'seeds'"),
        (["trainer.max_steps=many"], "trainer.max_steps=many"),
        (["generator.width=48"], "is what sweep tiny varies"),
        (["width=48"], "Unknown value of axis 'width' '48'.*Valid: 32, 64"),
        (["seed=3"], "seeds=0,1,2"),
        (["seeds=a"], "whole numbers"),
        (["seeds=0,1,0"], "seeds=0,1,0 names 0 more than once"),
        (["resources.tiem=1"], "tiem"),
        (["resources.nodes=0"], "at least 1"),
        (["trainer.max_steps"], "key=value"),
        (["generator.heads=3"], "Cell width=32 .* not a multiple"),
    ],
)
def test_wrong_requests_make_one_clear_sentence(make_sweep: Make, root: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(make_sweep(axes=[WIDTH], report={}), "demo", words)
    assert not list(root.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": []}, "Did you mean: 'axes'"),
        ({"name": "other"}, "its name is 'other'"),
        ({"axes": [WIDTH, WIDTH]}, "axis 'width' is there twice"),
        ({"axes": [axis("width", "generator.width")]}, "needs one or more values"),
        ({"axes": [axis("width", "generator.width", 32, 32)]}, "different labels"),
        ({"axes": [axis("seed", "seed", 0, 1)]}, "seeds under the scales"),
        ({"axes": [axis("precision", "trainer.precision", "fp32")]}, "axis 'precision' needs another name"),
        ({"axes": [axis("kid_low", "generator.width", 32)]}, "axis 'kid_low' needs another name"),
        ({"axes": [axis("baseline", "generator.width", 32)]}, "axis 'baseline' needs another name"),
        ({"axes": [axis("width", "", 32)]}, "has no key"),
        ({"axes": [{**WIDTH, "when": {"depth": 2}}, DEPTH]}, "Unknown axis 'depth'"),
        ({"axes": [axis("a", "seed", {"value": 1, "when": {"b": 2}})]}, "Unknown axis 'b'"),
        ({"axes": [DEPTH, axis("a", "x", 1, {"value": 1, "when": {"depth": 2}})]}, "different labels"),
        ({"axes": [WIDTH], "exclude": [{"when": {"width": 48}, "reason": "x"}]}, "Unknown value of axis 'width' '48'"),
        ({"axes": [WIDTH, GUIDANCE], "zip": [["width", "guidance"]]}, "equal length"),
        (
            {"axes": [WIDTH, MIXER, PAIRED], "zip": [["width", "depth"]]},
            "zip puts axis 'depth' where 'width' stands, and its values depend on 'mixer' .*'mixer' before 'width'",
        ),
        ({"axes": [WIDTH], "scales": {}}, "at least one scale"),
        ({"axes": [WIDTH], "scales": {"demo": {"preset": "x", "seeds": [1, 1]}}}, "seeds"),
        ({"axes": [WIDTH], "report": {"rows": "widht"}}, "Did you mean 'width'"),
        ({"axes": [WIDTH], "report": {"baseline": {"width": 48}}}, "48"),
        ({"axes": [WIDTH], "scales": {"demo": {"preset": "x", "resources": {"gpu": 1}}}}, "Did you mean: 'gpus'"),
    ],
)
def test_wrong_definitions_are_explained(make_sweep: Make, changes: dict, message: str) -> None:
    name = changes.pop("name", None)
    path = make_sweep(**{"report": {}, **changes})
    if name:
        Path(path).write_text(Path(path).read_text().replace("name: tiny", f"name: {name}"))
    with pytest.raises(UserError, match=message):
        load_sweep(path)


def test_the_name_of_a_file_of_ones_own_is_told_from_a_mistyped_one(
    make_sweep: Make, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_sweep("mymix")
    with pytest.raises(
        UserError, match=r"Unknown sweep 'mymix'.*path of a file of your own, such as path/to/mymix.yaml"
    ):
        plan("mymix")
    register(plan(path))
    with pytest.raises(
        UserError, match=r"'mymix' was begun in .*/sweeps/mymix-demo from a file of its own.*mymix.yaml"
    ):
        plan("mymix", root=root)
    monkeypatch.delenv("ABLATE_ROOT")
    with pytest.raises(SystemExit):
        main(["plan", "mymix", "--root", str(root)])
    assert "'mymix' was begun in" in capsys.readouterr().err
    monkeypatch.setenv("ABLATE_ROOT", str(root))
    (root / "sweeps" / "mymix-demo" / "plan.json").write_text("[")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"For the file here, write mymix.yaml"):
        plan("mymix")


def test_unknown_names_get_a_suggestion(make_sweep: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'maskmamba-hybrid-schemes'"):
        plan("maskmamba-hybrid-scheme")
    with pytest.raises(UserError, match="Unknown scale.*Did you mean 'demo'"):
        plan(make_sweep(), "dem")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_sweep(str(tmp_path / "broken.yaml"))
    with pytest.raises(UserError, match="Cannot read sweep"):
        load_sweep(str(tmp_path / "none.yaml"))


def test_a_typed_key_that_no_cell_reads_is_refused(make_sweep: Make) -> None:
    path = make_sweep()
    assert len(plan(path, overrides=["generator.group_match=parameters"]).cells) == 3, "one of the schemes reads it"
    words = ["scheme=serial_v1,serial_v2", "generator.group_match=parameters"]
    with pytest.raises(
        UserError, match="^No cell of sweep tiny would change: generator.group_match is not read beside"
    ):
        plan(path, overrides=words)
