"""`ablate tokenize`: token stores out of image collections, and what can be done with them then."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal

import click

from datamodules.store_folder import META
from datamodules.store_format import check_tokenizer, read_meta
from experiments.commands.options import refuse_given
from experiments.commands.parts import load_tokenizer, text_encoder_config, tokenizer_config, working_device
from experiments.commands.single import configure_logging
from experiments.errors import UserError

if TYPE_CHECKING:
    from datamodules.tokenize.encode import Work
    from datamodules.tokenize.job import Job
    from datamodules.tokenize.merge import Summary

FOLDER = click.Path(path_type=Path)
SHOWN_REASONS = 12
SHOWN_CAPTION = 120
"""Letters; a caption may be a thousand words."""
OF_IMAGES = ("crops", "flip", "exif", "classes", "on_error", "shard")
"""Options of `ablate tokenize` about what is made of images."""
FIRST_PRESETS = {
    (False, False): "maskmamba/demo",
    (False, True): "maskmamba/text-demo",
    (True, False): "dimba/demo-class",
    (True, True): "dimba/demo",
}
"""(latents, captions) -> the preset to begin with: small enough for any machine."""


@click.command("tokenize")
@click.argument("dataset", metavar="imagenet|cc3m|coco|folder|merge")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--source", type=FOLDER, help="Folder of the images.")
@click.option("--out", type=FOLDER, required=True, help="Folder of the stores; data.root of later runs.")
@click.option("--split", default="train", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--tokenizer", default="llamagen_vq", show_default=True, help="Name; KEY=VALUE sets its options.")
@click.option(
    "--crops", default="adm", show_default=True, help="Comma-separated: centre, adm, ten_1.1, ten_1.05, random_K."
)
@click.option("--flip", is_flag=True, help="Store mirrored views as well.")
@click.option("--exif/--no-exif", default=None, help="Apply EXIF orientations (default: yes, but not for imagenet).")
@click.option("--classes", default=0, help="Number of classes, for tar shards with .cls files (imagenet: 1000).")
@click.option(
    "--on-error", type=click.Choice(["skip", "stop"]), default="skip", show_default=True, help="Broken images."
)
@click.option("--shard", default="0/1", help="I/N: do part I of N, from 0, then merge; `slurm`: as the job array says.")
@click.option("--batch-size", default=64, show_default=True, help="Views encoded at a time.")
@click.option("--workers", default=4, show_default=True, help="Decoding processes.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--divide", is_flag=True, help="Of a folder without splits: make train, and val of a tenth of each class."
)
@click.option(
    "--text-encoder", default="", help="Keep features of the captions too: t5, clip or minilm; text_encoder.KEY=VALUE."
)
@click.option("--verify", is_flag=True, help="Check the store and decode random samples to OUT/SPLIT.png.")
def tokenize_command(
    dataset: str,
    settings: tuple[str, ...],
    source: Path | None,
    out: Path,
    split: str,
    tokenizer: str,
    crops: str,
    flip: bool,
    exif: bool | None,
    classes: int,
    on_error: Literal["skip", "stop"],
    shard: str,
    batch_size: int,
    workers: int,
    device: str,
    divide: bool,
    text_encoder: str,
    verify: bool,
) -> None:
    """Turn a collection of images into a token store OUT/SPLIT. The same command goes on where it was stopped.

    `ablate tokenize merge --out DIR --split S` puts the parts of several shards together, with --verify and
    --text-encoder where asked. Both work on a store that is there already, too: leave out --source.
    """
    configure_logging()
    if dataset == "merge":
        refuse_given("is for making a store, not for merge", "source", "divide", *OF_IMAGES)
    elif source is None:
        refuse_given("needs the images; name their folder with --source", *OF_IMAGES)
    if divide:
        refuse_given("is not for --divide, which makes train and val", "split")
    device, share = working_device(device), parse_shard(shard)
    if share[1] > 1:
        refuse_given("needs the whole store; give it to `ablate tokenize merge`", "verify", "text_encoder")
    of_text = tuple(word for word in settings if word.startswith("text_encoder."))
    text = text_encoder_config(text_encoder, of_text)
    of_tokenizer = tuple(word for word in settings if word not in of_text)
    if source is None and not verify:  # needs no tokenizer
        if dataset != "merge" and text is None:
            raise UserError("Name the folder of the images with --source, or look at a finished store with --verify.")
        refuse_given("needs --verify here, which decodes", "tokenizer")
        if of_tokenizer:
            raise UserError(f"{of_tokenizer[0]}: a tokenizer is needed here with --verify only.")
    else:
        config = tokenizer_config(tokenizer, of_tokenizer)
    splits = ("train", "val") if divide else (split,)
    if dataset == "merge":
        from datamodules.tokenize.merge import merge

        _tell(out / split, merge(out, split))
    if source is not None:
        from datamodules.tokenize.encode import Work
        from datamodules.tokenize.job import Job

        views = tuple(crops.replace(" ", "").split(","))
        jobs = [Job(dataset, source, out, part, views, flip, exif, classes, divide) for part in splits]
        _make_stores(jobs, config, Work(batch_size, workers, device, on_error, share))
        if share[1] > 1:
            then = " && ".join(f"ablate tokenize merge --out {out} --split {part}" for part in splits)
            click.echo(f"Shard {share[0]} of {share[1]} is done; when all are: {then}")
            return
    for part in splits:
        if text is not None:
            _encode_captions(out / part, text, device)
        if verify:
            _verify(out, part, config, device)
    if source is not None and all((out / part / META).is_file() for part in ("train", "val")):
        for condition in _conditions(dataset, out):
            click.echo(f"Train on it with: {_training(dataset, out, tokenizer, settings, text, condition)}")


def parse_shard(text: str) -> tuple[int, int]:
    """ "3/16", or "slurm": the number of this task of a job array, counted from 0, and their count."""
    from experiments.shards import parse_share

    if text == "slurm":
        try:
            task, first, tasks = (int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "COUNT"))
        except (KeyError, ValueError) as error:
            raise UserError("--shard slurm works in a Slurm job array only (sbatch --array=0-15).") from error
        return task - first, tasks
    return parse_share(text)


def _make_stores(jobs: Sequence[Job], config: Any, work: Work) -> None:
    """Tokenize, one split after the other, and say what came of each that is whole."""
    from datamodules.tokenize.job import tokenize

    for job in jobs:
        summary = tokenize(job, config, lambda: load_tokenizer(config, work.device), work)
        if summary is not None:
            _tell(job.out / job.split, summary)


def _tell(folder: Path, summary: Summary) -> None:
    click.echo(f"{folder}: {summary.images:,} images.")
    for title, counts in (("left out", summary.refused), ("unusual", summary.notes)):
        for reason, count in list(counts.items())[:SHOWN_REASONS]:
            click.echo(f"  {title}: {count:,} x {reason}")
    if summary.refused:
        click.echo(f"  each with its reason: {folder / 'report.json'}")


def _conditions(dataset: str, out: Path) -> list[str]:
    """What runs on the stores in `out` can be conditioned on; classes first, and where there is neither."""
    from datamodules.config import DATASETS
    from datamodules.store import TokenStore

    stores = [TokenStore(out / split) for split in ("train", "val")]
    there = {
        "class": any(store.meta.source.get("classes") for store in stores),
        "caption": all(store.all_captioned for store in stores),
    }
    return [condition for condition in DATASETS[dataset].config.possible if there[condition]] or ["class"]


def _training(dataset: str, out: Path, tokenizer: str, settings: tuple[str, ...], text: Any, condition: str) -> str:
    """The command that trains on the stores in `out`. For captions it names what the preset says too, so that one for
    classes may take the preset's place. Raises ValueError for stores that no run can train on."""
    from datamodules.config import DATASETS
    from datamodules.store import TokenStore
    from experiments.config import load_config

    store, captions = TokenStore(out / "train"), condition == "caption"
    DATASETS[dataset].config(root=str(out), condition=condition).resolve()
    words = [f"data.name={dataset}", f"data.root={out}", f"tokenizer.name={tokenizer}"]
    of_text = [word for word in settings if word.startswith("text_encoder.")]
    words += [f"tokenizer.{word.removeprefix('tokenizer.')}" for word in settings if word not in of_text]
    if captions:
        encoder = "minilm" if text is None else text.name
        words += ["data.condition=caption", "generator.condition=text", f"text_encoder.name={encoder}", *of_text]
    preset = FIRST_PRESETS[bool(store.meta.latent_shape), captions]
    if len(store) < load_config(preset).trainer.batch_size:  # an epoch holds at least one batch
        words.append(f"trainer.batch_size={len(store)}")
    return " ".join(["ablate train", preset, *map(shlex.quote, words)])


def _encode_captions(folder: Path, config: Any, device: str) -> None:
    from datamodules.store import TokenStore
    from datamodules.stores import text_features
    from lightning_modules.text_encoders.config import TEXT_ENCODERS

    store = TokenStore(folder)
    if not store.all_captioned:
        raise UserError(f"{folder} has images without captions, so --text-encoder has nothing to encode.")
    made = text_features(store, TEXT_ENCODERS.build(config, device), folder.parent)
    meta = made.meta
    padded = meta.count * meta.tokens * meta.width * 2
    click.echo(
        f"{made.folder}: {meta.count:,} captions, {meta.total:,} tokens of width {meta.width}; "
        f"{meta.saved_bytes:,} bytes ({meta.saved_bytes / padded:.0%}) saved by keeping real tokens only."
    )


def _verify(out: Path, split: str, config: Any, device: str) -> None:
    from datamodules.tokenize.verify import verify_store

    folder, grid = out / split, out / f"{split}.png"
    check_tokenizer(folder, config)
    tokenizer = load_tokenizer(config, device)
    found = verify_store(folder, lambda codes: tokenizer.decode_uint8(codes.to(device)), grid)
    used = "" if found.codes_in_use is None else f", {found.codes_in_use:.1%} of the codes in use"
    click.echo(
        f"{folder}: in order. {found.images:,} images x {found.views} views, {found.captions:,} captions{used}. "
        f"Decoded samples, row by row: {grid}"
    )
    names = read_meta(folder)[0].source.get("classes", ())
    for key, label, caption in found.shown:
        named = names[label] if label < len(names) else ""
        click.echo("  " + "  ".join(filter(None, (key, named, shorten(caption, SHOWN_CAPTION, placeholder=" ...")))))
