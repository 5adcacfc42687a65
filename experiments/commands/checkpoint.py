"""`ablate import-checkpoint`: published weights become a finished run."""

from __future__ import annotations

from pathlib import Path

import click

from experiments.advice import command_on
from experiments.commands.single import ROOT_OPTION
from experiments.errors import UserError
from experiments.overrides import parse_overrides
from experiments.store import Run

KINDS = ("aim", "amused", "dimba", "llamagen-vq")
SHOWN = 5


@click.command("import-checkpoint")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--preset", default="", help="What FILE does not say: data, sampler, ...  [default: the paper's]")
@ROOT_OPTION
def import_command(kind: str, file: Path, overrides: tuple[str, ...], preset: str, root: str) -> None:
    """Check the published weights in FILE key by key and make a finished run of them.

    \b
    aim          a checkpoint of AiM, with or without its tokenizer; KEY=VALUE overrides go into the run
    amused       the folder of a published aMUSEd pipeline (amused-256, amused-512): becomes a run of UViT
    dimba        a checkpoint of Dimba, PixArt-alpha or PixArt-Sigma, as the official code writes it
    llamagen-vq  LlamaGen's vq_ds16_c2i.pt or vq_ds8_c2i.pt: becomes a file for tokenizer.weights=FILE
    """
    if not file.exists():
        what = "folder" if kind == "amused" else "file"
        raise UserError(f"Weights {file} not found; name the published {what}: ablate import-checkpoint {kind} PATH.")
    from experiments.import_amused import import_amused
    from experiments.imports import import_aim, import_dimba, import_llamagen_vq

    if kind == "llamagen-vq":
        if overrides:
            raise UserError(f"import-checkpoint llamagen-vq takes no overrides such as {overrides[0]}.")
        result = import_llamagen_vq(file, Path(root))
    else:
        take = {"aim": import_aim, "amused": import_amused, "dimba": import_dimba}[kind]
        usual = "mmamba/uvit-paper" if kind == "amused" else f"{kind}/paper"
        result = take(file, preset or usual, {"runtime.root": root, **parse_overrides(overrides)})
    click.echo(f"{result.keys} tensors taken over and checked.")
    if result.unused:
        more = f", and {len(result.unused) - SHOWN} more" if len(result.unused) > SHOWN else ""
        click.echo(f"{len(result.unused)} not used: {', '.join(result.unused[:SHOWN])}{more}.")
    for note in result.notes:
        click.echo(f"Note: {note}")
    if result.run_id:
        click.echo(f"In {result.path}. Sample from it with: {command_on(Run(result.path), 'sample')}")
    else:
        click.echo(f"Wrote {result.path}. Use it with tokenizer.weights={result.path}.")
