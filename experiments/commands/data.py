"""Commands about data: token stores out of image collections, and reference statistics."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import click

from datamodules.store_format import check_tokenizer, read_meta
from experiments.commands.options import refuse_given
from experiments.commands.single import configure_logging
from experiments.errors import UserError

if TYPE_CHECKING:
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
    on_error: str,
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
    device, share = _device(device), parse_shard(shard)
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
        from datamodules.tokenize.job import Job, tokenize

        work = Work(batch_size, workers, device, "stop" if on_error == "stop" else "skip", share)
        views = tuple(crops.replace(" ", "").split(","))
        for part in splits:
            job = Job(dataset, source, out, part, views, flip, exif, classes, divide)
            summary = tokenize(job, config, lambda: load_tokenizer(config, device), work)
            if summary is not None:
                _tell(out / part, summary)
        if work.shard[1] > 1:
            then = " && ".join(f"ablate tokenize merge --out {out} --split {part}" for part in splits)
            click.echo(f"Shard {work.shard[0]} of {work.shard[1]} is done; when all are: {then}")
            return
    for part in splits:
        if text is not None:
            _encode_captions(out / part, text, device)
        if verify:
            _verify(out, part, config, device)
    if source is not None and all((out / part / "meta.json").is_file() for part in ("train", "val")):
        for condition in _conditions(dataset, out):
            click.echo(f"Train on it with: {_training(dataset, out, tokenizer, settings, text, condition)}")


@click.command("reference")
@click.argument("dataset", metavar="imagenet|cc3m|coco|folder|store")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--source", type=FOLDER, required=True, help="Folder of the images, or of the stores.")
@click.option("--out", type=FOLDER, required=True, help="The file to write; evaluation.reference of later runs.")
@click.option("--split", default="val", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--size", default=256, show_default=True, help="Side of the images in pixels.")
@click.option("--crop", default="adm", show_default=True, type=click.Choice(["adm", "centre"]))
@click.option("--exif/--no-exif", default=None, help="Apply EXIF orientations (default: yes, but not for imagenet).")
@click.option("--count", default=0, help="Take so many images only, chosen by --seed; 0 = all. COCO-30k: 30000.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--keep",
    default=10_000,
    show_default=True,
    help="Images kept in the file, with their classes: for KID, precision, recall and class accuracy.",
)
@click.option(
    "--classes",
    default=0,
    help="Number of classes, for tar shards with .cls files (imagenet: 1000); without it the file names none.",
)
@click.option("--inception-weights", type=FOLDER, help="Weights of 2015-12-05; without them there is no FID.")
@click.option("--tokenizer", default="llamagen_vq", show_default=True, help="For `store`: what decodes it.")
@click.option("--batch-size", default=64, show_default=True)
@click.option("--workers", default=4, show_default=True, help="Decoding processes.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def reference_command(dataset: str, settings: tuple[str, ...], **options: Any) -> None:
    """Statistics of real images, once: what FID and the other distances of later evaluations are measured against.

    `store` takes a finished store instead of images: the statistics are then of its reconstructions.
    """
    configure_logging()
    from experiments.reference import ReferenceJob, make_reference

    if dataset == "store":
        refuse_given(
            "is for images; those of a store are cropped already", "size", "crop", "exif", "classes", "workers"
        )
    else:
        refuse_given("is for `reference store`, which decodes", "tokenizer")
    options["device"] = _device(options["device"])
    name = options.pop("tokenizer")
    decode = None
    if dataset == "store":
        config = tokenizer_config(name, settings)
        check_tokenizer(options["source"] / options["split"], config)
        tokenizer = load_tokenizer(config, options["device"])
        decode = tokenizer.decode_uint8
    elif settings:
        raise UserError(f"{settings[0]}: settings are those of a tokenizer, which only `reference store` needs.")
    made = make_reference(ReferenceJob(dataset=dataset, **options), decode)
    measured = ", ".join(f"{layer} features" for layer in made.moments)
    click.echo(f"{options['out']}: {made.name}, {made.count:,} images, moments of {measured}.")
    click.echo(f"Measure against it with: ablate evaluate RUN evaluation.reference={options['out']}")


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


def tokenizer_config(name: str, settings: tuple[str, ...]) -> Any:
    """The configuration of a tokenizer with KEY=VALUE options (tokenizer.KEY works too) and its fingerprint."""
    from lightning_modules.hashing import file_sha256
    from lightning_modules.tokenizers.config import TOKENIZERS

    result = _configured(TOKENIZERS[name].config, settings, "tokenizer.")
    weights = result.weight_file()
    if weights is None:
        if result.fingerprint:  # a tokenizer that needs no weights
            return result
        raise UserError(
            f"The tokenizer {name} has no weights of its own; name the published file with weights=FILE, or take the "
            "embedded one, of 32x32 pixels, with --tokenizer emoji_vq."
        )
    if not weights.is_file():
        raise FileNotFoundError(f"Tokenizer weights {weights} not found; name the file with weights=FILE.")
    result.fingerprint = file_sha256(weights)
    return result


def text_encoder_config(name: str, settings: tuple[str, ...]) -> Any:
    """The configuration of a text encoder with text_encoder.KEY=VALUE options, resolved; None where none is named."""
    from lightning_modules.text_encoders.config import TEXT_ENCODERS

    if name in ("", "none"):
        if settings:
            raise UserError(f"{settings[0]}: name the text encoder with --text-encoder.")
        return None
    result = _configured(TEXT_ENCODERS[name].config, settings, "text_encoder.")
    if not getattr(result, "model", name):
        raise UserError(f"--text-encoder {name} needs text_encoder.model=FOLDER, or a name on the hub.")
    result.resolve()
    return result


def _configured(kind: type, settings: tuple[str, ...], prefix: str) -> Any:
    """A configuration with KEY=VALUE options."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from experiments.overrides import parse_overrides

    config = OmegaConf.structured(kind)
    try:
        for key, value in parse_overrides(settings).items():
            OmegaConf.update(config, key.removeprefix(prefix), value)
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error


def load_tokenizer(config: Any, device: str) -> Any:
    """The tokenizer on a device, frozen."""
    from lightning_modules.tokenizers.config import TOKENIZERS

    return TOKENIZERS.build(config).eval().requires_grad_(False).to(device)


def _device(name: str) -> str:
    from experiments.process import usable_device

    return usable_device(name, "--device ")


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
