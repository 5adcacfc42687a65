"""Commands on results. The work is in `reports.commands`; here are its words."""

from __future__ import annotations

from pathlib import Path

import click

from experiments.commands.single import ROOT_OPTION
from experiments.commands.sweep import JSON_OPTION, OVERRIDES, SCALE_OPTION
from experiments.errors import UserError

OUT_OPTION = click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write.")


@click.command("report", epilog=OVERRIDES)
@click.argument("sweep", default="")
@click.argument("overrides", nargs=-1)
@SCALE_OPTION
@ROOT_OPTION
@click.option("--all", "everything", is_flag=True, help="Every sweep that was begun, and one page over all of them.")
@click.option(
    "--publish",
    "published",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to commit or serve: small pages of every complete sweep, and README.md over them.",
)
@click.option(
    "--also",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    help="With --publish: another root whose complete sweeps are published too; may be repeated.",
)
@OUT_OPTION
@JSON_OPTION
def report_command(
    sweep: str,
    overrides: tuple[str, ...],
    scale: str,
    root: str,
    everything: bool,
    published: Path | None,
    also: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Tables, figures, samples and index.html of SWEEP, from whatever has run so far."""
    from reports.commands import overview, publish, report

    if bool(sweep) + everything + bool(published) != 1:
        raise UserError(
            "Name a sweep (ablate list shows them), or say --all for every one that was begun, or --publish FOLDER for "
            "every one that is complete."
        )
    if also and not published:
        raise UserError("--also ROOT goes with --publish FOLDER.")
    if published:
        if out:
            raise UserError("--publish FOLDER names the folder already; leave --out away.")
        publish(published, [root, *also], as_json)
    elif everything:
        overview(root, out, as_json)
    else:
        report(sweep, scale, overrides, root, out, as_json)


@click.command("reproduce")
@click.argument("sweep")
@click.argument("cell")
@click.argument("overrides", nargs=-1)
@SCALE_OPTION
@ROOT_OPTION
@click.option("--into", type=click.Path(file_okay=False, path_type=Path), help="Root; default: in ROOT/reproduced.")
@click.option("--tolerance", default=0.01, show_default=True, help="Relative difference that still agrees.")
@JSON_OPTION
def reproduce_command(
    sweep: str,
    cell: str,
    overrides: tuple[str, ...],
    scale: str,
    root: str,
    into: Path | None,
    tolerance: float,
    as_json: bool,
) -> int:
    """Run one finished CELL of SWEEP again from its stored configuration, elsewhere, and compare what is measured.

    OVERRIDES such as runtime.device=cpu say what it runs on here. Exits with 1 if a metric comes out differently.
    """
    from experiments.commands.single import configure_logging
    from reports.commands import reproduce

    configure_logging()
    return reproduce(sweep, cell, scale, overrides, root, into, tolerance, as_json)


@click.command("explain", epilog=OVERRIDES)
@click.argument("sweep")
@click.argument("cell")
@click.argument("overrides", nargs=-1)
@SCALE_OPTION
@ROOT_OPTION
@JSON_OPTION
def explain_command(sweep: str, cell: str, overrides: tuple[str, ...], scale: str, root: str, as_json: bool) -> None:
    """Everything behind the numbers of one CELL of SWEEP, e.g. hybrid_scheme=serial_v2."""
    from reports.commands import explain

    explain(sweep, cell, scale, overrides, root, as_json)


@click.command("compare")
@click.argument("left")
@click.argument("right")
@ROOT_OPTION
@OUT_OPTION
@JSON_OPTION
def compare_command(left: str, right: str, root: str, out: Path | None, as_json: bool) -> None:
    """Two runs side by side: what differs in their configurations, their curves, their samples.

    LEFT, RIGHT: an id, any unique part of one, or a run's folder.
    """
    from reports.commands import compare

    compare(left, right, root, out, as_json)


@click.command("board", epilog=OVERRIDES)
@click.argument("sweep", default="")
@click.argument("overrides", nargs=-1)
@SCALE_OPTION
@ROOT_OPTION
@click.option("--port", default=6006, show_default=True)
def board_command(sweep: str, overrides: tuple[str, ...], scale: str, root: str, port: int) -> None:
    """TensorBoard on exactly the runs of SWEEP, under readable names; without SWEEP, on all runs."""
    from reports.commands import board

    board(sweep, scale, overrides, root, port)
