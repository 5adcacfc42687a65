"""Commands that make one run: train, and the worker that launchers start."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from experiments.advice import done_before, how_to_use
from experiments.checks import check_files
from experiments.config import load_config, read_config
from experiments.errors import CellError, UserError
from experiments.failures import classify
from experiments.files import DEFAULT_ROOT, check_root
from experiments.identity import run_id
from experiments.lineage import start_of
from experiments.run_config import RunConfig
from experiments.stopping import stopped_by_signals
from experiments.store import RunStore

if TYPE_CHECKING:
    from experiments.status import Part

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
    trained_before = RunStore(config.root).run(run_id(config)).is_done()
    if config.trainer.init_from and not trained_before:
        start_of(config).check(config)
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
    if trained_before:
        click.echo(done_before("trained", run.folder, result, "or name another folder of outputs with --root"))
    click.echo(f"{run.id}: {result.get('step')} steps, {result.get('parameters', 0):,} parameters.  {values}")
    click.echo(f"In {run.folder}. {how_to_use(config, run)}")


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


@click.command("execute", hidden=True)
@click.argument("configs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--part", type=click.Choice(["all", "train", "evaluate"]), default="all", help="Do only this part.")
@click.option("--run", "folder", type=click.Path(path_type=Path), help="Of --part evaluate: the run's folder.")
def execute_command(configs: tuple[Path, ...], part: Part, folder: Path | None) -> None:
    """Train and evaluate what the CONFIGS describe, which share one training, or measure it. What launchers start."""
    loaded = [read_config(path, trains=part != "evaluate") for path in configs]
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
        from experiments.execute import execute

        work_on = partial(execute, part=part, folder=folder)
    try:
        with stopped_by_signals():  # a time limit may end it while it tokenizes, measures, or waits for another run
            work_on(loaded)
    except (UserError, CellError):
        raise
    except Exception as error:  # recorded in the run's status by its claim; the log keeps the traceback
        logging.getLogger("ablate").exception("failed")
        raise CellError(f"{run_id(loaded[0])}: {classify(error)[1]}") from error
