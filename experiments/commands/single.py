"""Commands on one run: train, sample, evaluate, and the worker that launchers start."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from experiments.config import build_config, load_config, read_config
from experiments.errors import CellError, UserError
from experiments.failures import classify
from experiments.files import DEFAULT_ROOT, check_root
from experiments.identity import EVALUATION, run_id
from experiments.lineage import check_start
from experiments.overrides import parse_overrides
from experiments.presets import read_chain
from experiments.resolve import check_files, check_unchanged
from experiments.run_config import RunConfig
from experiments.runs import how_to_use, not_trained
from experiments.stopping import stopped_by_signals
from experiments.store import Run, RunStore

if TYPE_CHECKING:
    from experiments.export import Kind
    from experiments.status import Part

NeedsData = Literal["always", "captions", "never"]
MOVED = ("data.root", "data.source", "tokenizer.weights")
"""Keys of a training that `evaluate` and `sample` take anew, since what they name may have moved."""
ROOT_OPTION = click.option(
    "--root",
    envvar="ABLATE_ROOT",
    show_envvar=True,
    default=DEFAULT_ROOT,
    show_default=True,
    help="Output folder.",
    callback=lambda context, option, root: check_root(root),
)


def configure_logging() -> None:
    """Plain lines on standard error, one per event."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("torch", "matplotlib", "PIL", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@click.command("train")
@click.argument("preset")
@click.argument("overrides", nargs=-1)
@click.option("--subset", type=click.IntRange(min=1), help="Train on so many images only: short for data.subset=N.")
@click.option("--root", help="Short for runtime.root=DIR.  [env var: ABLATE_ROOT; default: outputs]")
def train_command(preset: str, overrides: tuple[str, ...], subset: int | None, root: str | None) -> None:
    """Train one run from PRESET (a name, or a YAML file), with KEY=VALUE overrides. Going on is automatic."""
    overrides = (*overrides, f"data.subset={subset}") if subset else overrides
    overrides = (*overrides, f"runtime.root={root}") if root else overrides
    config = load_config(preset, overrides)
    check_root(config.runtime.root)
    _check_trains(config)
    check_files(config)
    config.runtime.progress = config.runtime.progress and sys.stderr.isatty()
    configure_logging()
    if not (done_before := RunStore(config.root).run(run_id(config)).is_done()):
        check_start(config)
    from experiments.ranks import is_leader
    from experiments.run import train

    try:
        with stopped_by_signals():
            run = train(config, overrides=overrides)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's answer to Ctrl-C is exit(1), without a word
            raise KeyboardInterrupt from error
        if error.code == os.EX_TEMPFAIL:  # `Stopped`, by Ctrl-C or SIGTERM
            click.echo("Stopped. The same command goes on from here.", err=True)
        raise
    if not is_leader():
        return
    result = run.result() or {}
    from reports.quantities import heading, printed

    values = "  ".join(f"{heading(key)} {printed(key, value)}" for key, value in result.get("metrics", {}).items())
    if done_before:
        click.echo(_done_before(run, result))
    click.echo(f"{run.id}: {result.get('step')} steps, {result.get('parameters', 0):,} parameters.  {values}")
    click.echo(f"In {run.folder}. {how_to_use(config, run)}")


def _done_before(run: Run, result: dict[str, Any]) -> str:
    """What is said of a run that was trained already: also that other code did it, which may give other numbers."""
    from experiments.provenance import other_code

    if not (other := other_code(result)):
        return "Nothing to do, it is trained already."
    return (
        f"Nothing to do, it is trained already, but by the code of {other}, which is not this one. To train it with "
        f"this code, move {run.folder} away, or name another folder of outputs with --root."
    )


def _check_trains(config: RunConfig) -> None:
    """Raise UserError, naming the right command, for what is done otherwise than by training one run."""
    if config.benchmark.name != "none":
        raise UserError(
            f"benchmark.name={config.benchmark.name} asks for a measurement, not a training; `ablate bench NAME` "
            "measures, and so does `ablate run SWEEP` where the sweep says measure: benchmark."
        )
    if config.imported:
        raise UserError(
            f"imported={config.imported} stands for published weights, which are not trained; "
            "`ablate import-checkpoint KIND FILE` makes their run."
        )
    if config.search.space:
        raise UserError(
            "search.space asks for a search, which `ablate train` does not do; put search: into a sweep's file and "
            "start it with `ablate run FILE`."
        )


@click.command("evaluate")
@click.argument("run")
@click.argument("overrides", nargs=-1)
@click.option(
    "--again", is_flag=True, help="Measure samples that are kept anew, after adding a metric: of the newest evaluation."
)
@ROOT_OPTION
def evaluate_command(run: str, overrides: tuple[str, ...], again: bool, root: str) -> None:
    """Measure RUN; overrides may change sampler.*, evaluation.* and runtime.*, and say where its data lie now.

    It samples on as many devices as the training had and this machine has; runtime.devices=N says otherwise.

    RUN: an id, any unique part of one, or its folder.
    """
    found = RunStore(root).find(run)
    config = _evaluation_config(found, overrides, root)
    configure_logging()
    words = parse_overrides(overrides)
    if again and not any(key.partition(".")[0] in EVALUATION for key in words):
        from experiments.remeasure import chosen_evaluation

        config = chosen_evaluation(config, found)
    if "runtime.devices" not in words:  # the training's, wherever that was
        from experiments.process import most_devices

        config.runtime.devices = min(config.runtime.devices, most_devices(config))
    if again:
        from experiments.remeasure import measure_again as evaluate
    else:
        from experiments.evaluation import evaluate
    evaluation = evaluate(config, found)
    for line in _table(evaluation.result() or {}):
        click.echo(line)
    click.echo(f"In {evaluation.folder}: grid.png, samples.npz, result.json.")


def _table(result: dict[str, Any]) -> list[str]:
    """Every metric with its 95 % interval, and what real images score in the samples' place."""
    from reports.quantities import heading, is_end, printed

    metrics, floor = result.get("metrics", {}), result.get("protocol", {}).get("floor", {})
    lines = [f"{'metric':24} {'samples':>10}  {'95 % interval':22} {'real images':>11}"]
    for key, value in metrics.items():
        if is_end(key, metrics):
            continue
        ends = [printed(key, metrics[f"{key}_{end}"]) for end in ("low", "high") if f"{key}_{end}" in metrics]
        real = printed(key, floor[key]) if key in floor else ""
        lines.append(f"{heading(key):24} {printed(key, value):>10}  {' to '.join(ends):22} {real:>11}".rstrip())
    return lines


@click.command("sample")
@click.argument("run")
@click.argument("overrides", nargs=-1)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("samples.png"), show_default=True)
@click.option("--count", type=click.IntRange(min=1), help="Number of images; default: the grid of training.")
@click.option("--class", "class_name", help="One class only, by name or number.")
@click.option("--prompt", "prompts", multiple=True, help="A caption to draw, for runs on captions; may be repeated.")
@click.option("--seed", default=0, show_default=True)
@click.option("--known-from", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Keep this image...")
@click.option("--mask", help="...but for this box of pixels, LEFT,TOP,RIGHT,BOTTOM, which is drawn anew.")
@click.option(
    "--export",
    type=(click.Choice(["npz", "png"]), click.Path(file_okay=False, path_type=Path)),
    metavar="npz|png DIR",
    help="Write --count images for other evaluators: one file as ADM's takes it, or PNGs.",
)
@click.option(
    "--shard", metavar="I/K", help="Draw share I of K, from 0, of --export or of what `ablate evaluate` measures."
)
@ROOT_OPTION
def sample_command(
    run: str,
    overrides: tuple[str, ...],
    out: Path,
    count: int | None,
    class_name: str | None,
    prompts: tuple[str, ...],
    seed: int,
    known_from: Path | None,
    mask: str | None,
    export: tuple[Kind, Path] | None,
    shard: str | None,
    root: str,
) -> None:
    """Sample images from RUN into a PNG. With --known-from and --mask, fill in a part of a given image.

    RUN: an id, any unique part of one, or its folder.

    --export writes the images themselves, any number of them; with --shard, several jobs share the work and a killed
    one goes on where it stopped.
    """
    found = RunStore(root).find(run)
    needs_data: NeedsData = "always" if shard and not export else "never" if prompts else "captions"
    config = _evaluation_config(found, overrides, root, needs_data)
    if (known_from is None) != (mask is None):
        raise UserError("--known-from IMAGE and --mask LEFT,TOP,RIGHT,BOTTOM belong together; give both or neither.")
    configure_logging()
    if export or shard:
        if class_name or prompts or known_from:
            raise UserError("--export and --shard draw what an evaluation draws: without --class, --prompt and --mask.")
        _sample_share(config, found, export, count, seed, shard)
        return
    check_request(config, found, class_name=class_name, prompts=prompts, fills_in=known_from is not None)
    from experiments.inpaint import sample_to_file

    sample_to_file(
        config,
        found,
        out,
        count=count,
        class_name=class_name,
        prompts=prompts,
        seed=seed,
        known_from=known_from,
        mask=mask,
    )
    click.echo(f"Wrote {out}.")


def check_request(
    config: RunConfig, run: Run, *, class_name: str | None, prompts: tuple[str, ...], fills_in: bool
) -> None:
    """Refuse what the run cannot draw, before anything is loaded.

    Raises:
        UserError: a run that is not trained, a class or prompt that it is not conditioned on, a box to fill in of a
            generator that is not masked.
    """
    if not run.is_done():
        raise not_trained(run)
    if fills_in and config.objective.name != "masked":
        raise UserError(
            f"Run {run.id} is {config.objective.name}: only masked generators fill in parts of an image; take a run "
            "with objective.name=masked."
        )
    on_class = config.generator.condition == "class"
    if prompts and on_class:
        raise UserError("--prompt needs a run that is conditioned on captions; this one knows classes: use --class.")
    if class_name is not None and not on_class:
        raise UserError("--class needs a run that is conditioned on classes; this one knows captions: use --prompt.")


@click.command("execute", hidden=True)
@click.argument("configs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--part", type=click.Choice(["all", "train", "evaluate"]), default="all", help="Do only this part.")
def execute_command(configs: tuple[Path, ...], part: Part) -> None:
    """Train and evaluate what the CONFIGS describe, which share one training, or measure it. What launchers start."""
    loaded = [read_config(path) for path in configs]
    for config in loaded:
        config.runtime.progress = False
    configure_logging()
    work_on: Callable[[list[RunConfig]], None]
    if loaded[0].benchmark.name != "none":
        from experiments.benchmarks.contest import measure

        work_on = measure
    elif loaded[0].search.space:
        from experiments.search.run import search_and_execute

        work_on = partial(search_and_execute, part=part)
    else:
        from experiments.run import execute

        work_on = partial(execute, part=part)
    try:
        with stopped_by_signals():  # a time limit may end it while it tokenizes, measures, or waits for another run
            work_on(loaded)
    except (UserError, CellError):
        raise
    except Exception as error:  # recorded in the run's status by its claim; the log keeps the traceback
        logging.getLogger("ablate").exception("failed")
        raise CellError(f"{run_id(loaded[0])}: {classify(error)[1]}") from error


def _sample_share(
    config: RunConfig, run: Run, export: tuple[Kind, Path] | None, count: int | None, seed: int, shard: str | None
) -> None:
    """--export and --shard of `sample`."""
    from experiments.export import export_samples, share_of_evaluation
    from experiments.shards import parse_share

    share = parse_share(shard) if shard else None
    if export is None:
        assert share is not None
        share_of_evaluation(config, run, share)
        click.echo(f"Drew share {shard}. Measure the evaluation with: ablate evaluate {run.id}")
        return
    kind, folder = export
    count = count or config.evaluation.num_samples
    if export_samples(config, run, kind, folder, count, seed, share):
        click.echo(f"Wrote {count} images to {folder}.")
    else:
        click.echo(f"Drew share {shard}; others are missing.")


def _evaluation_config(run: Run, overrides: tuple[str, ...], root: str, needs_data: NeedsData = "always") -> RunConfig:
    """The run's configuration with overrides that leave its training alone.

    Args:
        needs_data: always, where it is conditioned on captions, or never; where not, its data may be gone. Data that
            were replaced are refused all the same: classes may have other numbers in them.

    Raises:
        UserError: an override of the training; a file that the run was made with is gone, or another one now.
    """
    values = parse_overrides(overrides)
    wrong = [k for k in values if k.partition(".")[0] not in (*EVALUATION, "runtime") and k not in MOVED]
    if wrong:
        raise UserError(
            f"{wrong[0]} would change the training; only sampler.*, evaluation.* and runtime.* can change here, and "
            f"where its files lie ({', '.join(MOVED)})."
        )
    stored = read_chain(run.config_path)
    on_class = stored.get("generator", {}).get("condition") == "class"
    needed = needs_data == "always" or (needs_data == "captions" and not on_class)
    for key in MOVED:
        section, _, name = key.partition(".")
        place = stored.get(section, {}).get(name, "")
        if key in values or place in ("", "embedded") or Path(place).exists():
            continue
        if section == "data" and not needed:
            stored["data"][name] = ""
        else:
            raise UserError(
                f"{key}={place}, which {run.id} was made with, is not there; put it back, or say where it is now with "
                f"{key}=PATH."
            )
    config = build_config(stored, {"runtime.root": root, **values})
    check_unchanged(stored, config, run.config_path)
    return config
