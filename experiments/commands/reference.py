"""`ablate reference`: statistics of real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from datamodules.store_format import check_tokenizer
from experiments.commands.options import refuse_given
from experiments.commands.parts import load_tokenizer, tokenizer_config, working_device
from experiments.commands.single import configure_logging
from experiments.errors import UserError

FOLDER = click.Path(path_type=Path)


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
    options["device"] = working_device(options["device"])
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
