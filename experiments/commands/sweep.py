"""Commands on named sweeps. The work is in `sweeps.views` and `sweeps.actions`; here are its words."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from experiments.commands.single import ROOT_OPTION
from experiments.errors import UserError
from experiments.terminal import console, print_json

SCALE_OPTION = click.option("--scale", default="", help="demo, small or paper; default: the sweep's first.")
OVERRIDES = "OVERRIDES: KEY=VALUE of the configuration, AXIS=LABEL[,LABEL], seeds=0,1,2, resources.KEY=VALUE."
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
LAUNCHER_OPTION = click.option(
    "--launcher", type=click.Choice(["local", "slurm"]), default="local", show_default=True, help="Where runs go."
)
JOBS_OPTION = click.option(
    "--jobs",
    "--max-parallel",
    default=0,
    type=click.IntRange(min=0),
    help="Runs at once; 0: what fits, or no limit.",
)
REPORT_OPTION = click.option(
    "--report/--no-report", "with_report", default=True, help="Write the report when all is done."
)


def sweep_options(function: Callable) -> Callable:
    """SWEEP, KEY=VALUE overrides, --scale and --root: what most commands take."""
    for decorate in (
        ROOT_OPTION,
        SCALE_OPTION,
        click.argument("overrides", nargs=-1),
        click.argument("sweep"),
    ):
        function = decorate(function)
    return function


@click.command("list")
@click.option("--runs", is_flag=True, help="The runs that there are instead, with what they were made with.")
@JSON_OPTION
@ROOT_OPTION
def list_command(runs: bool, root: str, as_json: bool) -> int:
    """Named sweeps: what each reproduces, how many cells, how far."""
    if runs:
        return _list_runs(root, as_json)
    from sweeps.views import list_sweeps

    return list_sweeps(root, as_json)


def _list_runs(root: str, as_json: bool) -> int:
    from experiments.runs import run_records, run_table

    records = run_records(root)
    if as_json:
        print_json(records)
    elif records:
        console().print(run_table(records))
    else:
        click.echo(f"No runs in {root}. A first one: ablate train maskmamba/demo")
    return 0


@click.command("plan", epilog=OVERRIDES)
@sweep_options
@JSON_OPTION
def plan_command(sweep: str, overrides: tuple[str, ...], scale: str, root: str, as_json: bool) -> int:
    """Dry run of SWEEP: every cell on the meta device, its parameters and FLOPs, what is done and what left out."""
    from reports.subject import check_report
    from sweeps.views import show_plan

    check_report(sweep, root)
    return show_plan(sweep, scale, overrides, root, as_json=as_json)


@click.command("run", epilog=OVERRIDES)
@sweep_options
@LAUNCHER_OPTION
@JOBS_OPTION
@click.option("--dry-run", is_flag=True, help="Say what would be started, and start nothing.")
@REPORT_OPTION
def run_command(
    sweep: str,
    overrides: tuple[str, ...],
    scale: str,
    root: str,
    launcher: str,
    jobs: int,
    dry_run: bool,
    with_report: bool,
) -> int:
    """Train and evaluate what SWEEP still lacks, then write its report. Finished runs are never run again."""
    from reports.subject import check_report
    from sweeps.actions import run

    check_report(sweep, root)
    code = run(sweep, scale, overrides, root, launcher, jobs, dry_run=dry_run, with_report=with_report)
    if with_report and launcher == "local" and not dry_run:
        _write_report(sweep, scale, overrides, root)
    return code


def _write_report(sweep: str, scale: str, overrides: tuple[str, ...], root: str) -> None:
    """What a local launch ends with; on a cluster it is a job of its own."""
    from reports.commands import report

    report(sweep, scale, overrides, root, keep_current=True)


@click.command("status", epilog=OVERRIDES)
@sweep_options
@click.option("--watch", is_flag=True, help="Go on until nothing is running or queued.")
@JSON_OPTION
def status_command(sweep: str, overrides: tuple[str, ...], scale: str, root: str, watch: bool, as_json: bool) -> int:
    """How far every cell of SWEEP is, and why one failed."""
    from sweeps.views import status

    return status(sweep, scale, overrides, root, as_json, watch)


@click.command("logs", epilog=OVERRIDES)
@click.argument("sweep")
@click.argument("cell")
@click.argument("overrides", nargs=-1)
@SCALE_OPTION
@ROOT_OPTION
@click.option("--lines", default=0, type=click.IntRange(min=0), help="Only the last so many lines; 0: all.")
@click.option("--follow", "-f", is_flag=True, help="Go on printing while the cell runs.")
def logs_command(
    sweep: str, cell: str, overrides: tuple[str, ...], scale: str, root: str, lines: int, follow: bool
) -> int:
    """What CELL of SWEEP printed."""
    from sweeps.views import logs

    return logs(sweep, cell, scale, overrides, root, lines, follow)


@click.command("cancel", epilog=OVERRIDES)
@sweep_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be stopped, and stop nothing.")
def cancel_command(sweep: str, overrides: tuple[str, ...], scale: str, root: str, yes: bool, dry_run: bool) -> int:
    """Stop the running cells of SWEEP in good order; runs that another sweep needs go on."""
    from sweeps.actions import cancel

    if not (yes or dry_run or sys.stdin.isatty()):
        raise UserError("cancel asks before it stops anything; without a terminal, say --yes or --dry-run.")
    return cancel(sweep, scale, overrides, root, (lambda question: True) if yes else click.confirm, dry_run)


@click.command("retry")
@click.argument("sweep")
@click.argument("changes", nargs=-1)
@SCALE_OPTION
@ROOT_OPTION
@LAUNCHER_OPTION
@JOBS_OPTION
@click.option("--where", multiple=True, help="Only failures like this, e.g. cause=oom.")
@click.option("--of", "overrides", multiple=True, help="A word that the sweep was run with; may be repeated.")
@REPORT_OPTION
def retry_command(
    sweep: str,
    changes: tuple[str, ...],
    scale: str,
    root: str,
    launcher: str,
    jobs: int,
    where: tuple[str, ...],
    overrides: tuple[str, ...],
    with_report: bool,
) -> int:
    """Run the failed cells of SWEEP again, with KEY=VALUE CHANGES if given, which hold for these cells from now on.

    resources.KEY=VALUE among them is what their jobs ask for this time.
    """
    from reports.subject import check_report
    from sweeps.actions import retry

    check_report(sweep, root)
    code = retry(sweep, scale, overrides, root, where, changes, launcher, jobs, with_report=with_report)
    if with_report and launcher == "local":
        _write_report(sweep, scale, overrides, root)
    return code
