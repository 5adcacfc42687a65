"""Commands about what there is: what works on this machine, how fast, and which keys a preset has."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from pathlib import Path

import click

from experiments.commands.single import ROOT_OPTION, configure_logging
from experiments.terminal import console, print_json


@click.command("doctor")
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@ROOT_OPTION
def doctor_command(data: Path | None, as_json: bool, root: str) -> None:
    """What works on this machine, what does not, and the command that fixes it. Exits with 1 if something is broken.

    With DATA, a folder of images or of token stores: what is there and what is missing.
    """
    if data is not None:
        from experiments.doctor_data import examine_data

        findings = examine_data(data)
    else:
        from experiments.doctor import examine

        findings = examine(Path(root))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        from rich.table import Table
        from rich.text import Text

        table = Table("", "part", box=None, pad_edge=False)
        for heading in ("found", "way out"):
            table.add_column(heading, overflow="fold")  # file names are cut in two, never short
        marks = {"ok": Text("ok", "green"), "optional": Text("--", "yellow"), "broken": Text("!!", "red")}
        for finding in findings:
            table.add_row(marks[finding.state], finding.part, finding.found, finding.way_out)
        console().print(table)
    raise SystemExit(1 if any(finding.state == "broken" for finding in findings) else 0)


@click.command("bench")
@click.argument("name", required=False)
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for JSON and figure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--options", "list_options", is_flag=True, help="List the options of NAME, and run nothing.")
@ROOT_OPTION
def bench_command(
    name: str | None, options: tuple[str, ...], out: Path | None, as_json: bool, list_options: bool, root: str
) -> None:
    """Run benchmark NAME; without a name, list all. Ratios are measured side by side in one run.

    KEY=VALUE changes an option: seconds=20, presets=aim/demo,dimba/demo, batches=1,16, shapes=8x768x257. Where the
    options have presets, KEY may also be any key of a preset: generator.depth=2.
    """
    from experiments.benchmarks import BENCHMARKS, function_of, run, summary_of
    from experiments.benchmarks.options import defaults_of, parse_options

    if name is None:
        for known in sorted(BENCHMARKS):
            click.echo(f"{known:<{max(map(len, BENCHMARKS))}}  {summary_of(known)}")
        click.echo("ablate bench NAME --options lists the options of one.")
        return
    if list_options:
        function = function_of(name)
        click.echo("\n".join([*defaults_of(function), "", inspect.getdoc(function) or ""]))
        return
    chosen = parse_options(function_of(name), options)
    configure_logging()
    run(name, Path(root), out=out, as_json=as_json, **chosen)


@click.command("keys")
@click.argument("preset", required=False)
@click.argument("words", nargs=-1, metavar="[SECTION|KEY|KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def keys_command(preset: str | None, words: tuple[str, ...], as_json: bool) -> None:
    """Every key of PRESET that can be set as KEY=VALUE: its value, what it may be, what it means; without PRESET, all
    presets.

    SECTION (generator) or KEY (generator.bi_mamba) shows that part only. KEY=VALUE changes the preset first: with
    data.name=folder, the keys of folders are shown.
    """
    from experiments.keys import keys_of, select
    from experiments.presets import preset_names

    if preset is None:
        names = preset_names()
        if as_json:
            print_json(names)
        else:
            click.echo("\n".join([*names, "ablate keys PRESET lists the keys of one."]))
        return
    from experiments.config import load_unresolved

    found = keys_of(load_unresolved(preset, [word for word in words if "=" in word]))
    found = select(found, [word for word in words if "=" not in word], preset)
    if as_json:
        print_json([asdict(key) for key in found])
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("key", no_wrap=True)
    table.add_column("value", max_width=24, overflow="fold")
    table.add_column("may be", max_width=32, overflow="fold")
    table.add_column("meaning")
    for key in found:
        table.add_row(key.name, key.typed, key.type, key.doc)
    console().print(table)
