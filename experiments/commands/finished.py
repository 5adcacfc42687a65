"""Commands on one finished run: evaluate and sample."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from experiments.advice import check_trained, command_on, done_before, how_to_use_tokenizer
from experiments.commands.options import refuse_given
from experiments.commands.single import ROOT_OPTION, configure_logging
from experiments.config import read_config
from experiments.errors import UserError
from experiments.identity import EVALUATION, PLACES, evaluation_id
from experiments.overrides import parse_overrides
from experiments.presets import read_chain
from experiments.ranks import is_leader
from experiments.run_config import RunConfig
from experiments.store import Run, RunStore

if TYPE_CHECKING:
    from experiments.export import Kind

NeedsData = Literal["always", "captions", "never"]
MOVED = tuple(sorted(key for key in PLACES if key.partition(".")[0] in ("data", "tokenizer", "text_encoder")))
"""Keys of a training that `evaluate` and `sample` take anew, since what they name may have moved."""
OF_PROMPTS = ("evaluation.prompts", "evaluation.prompt_file", "evaluation.dataset", "evaluation.dataset_root")
"""Which captions are drawn."""
OF_DATASET = ("evaluation.dataset_root", "evaluation.dataset_reference")
"""Where another data set's captions and images are. Of the cells of a sweep, each takes its own."""
OF_DRAWING = ("evaluation.batch_size", "evaluation.snapshot")
"""How images are drawn, and with which weights."""


@click.command("evaluate")
@click.argument("run")
@click.argument("overrides", nargs=-1)
@click.option(
    "--again", is_flag=True, help="Measure samples that are kept anew, after adding a metric: of the newest evaluation."
)
@ROOT_OPTION
def evaluate_command(run: str, overrides: tuple[str, ...], again: bool, root: str) -> None:
    """Measure RUN; overrides may change sampler.*, evaluation.* and runtime.*, and say where its files lie now.

    It samples on as many devices of one machine as the training had and this machine has; runtime.devices=N says
    otherwise.

    RUN: an id, any unique part of one, or its folder.
    """
    found = RunStore(root).find(run)
    config, words = _evaluation_config(found, overrides, root), parse_overrides(overrides)
    if again and not any(key.partition(".")[0] in EVALUATION for key in words):
        from experiments.remeasure import chosen_evaluation

        config = chosen_evaluation(config, found)
    before = None if again else found.evaluation(evaluation_id(config)).result()
    configure_logging()
    if "runtime.devices" not in words:  # the training's, wherever that was
        from experiments.process import most_devices

        config.runtime.devices = min(config.runtime.devices, most_devices(config))
    if again:
        from experiments.remeasure import measure_again as evaluate
    else:
        from experiments.evaluation import evaluate
    evaluation = evaluate(config, found)
    if not is_leader():
        return
    if before is not None:
        click.echo(done_before("sampled and measured", evaluation.folder, before))
    for line in _table(evaluation.result() or {}):
        click.echo(line)
    click.echo(f"In {evaluation.folder}: grid.png, samples.npz, result.json.")


def _table(result: dict[str, Any]) -> list[str]:
    """Every metric with its 95 % interval, and what real images score in the samples' place."""
    from reports.quantities import heading, is_end, printed, printed_ends

    metrics, floor = result.get("metrics", {}), result.get("protocol", {}).get("floor", {})
    lines = [f"{'metric':24} {'samples':>10}  {'95 % interval':22} {'real images':>11}"]
    for key, value in metrics.items():
        if is_end(key, metrics):
            continue
        ends, real = " to ".join(printed_ends(key, metrics)), printed(key, floor[key]) if key in floor else ""
        lines.append(f"{heading(key):24} {printed(key, value):>10}  {ends:22} {real:>11}".rstrip())
    return lines


@click.command("sample")
@click.argument("run")
@click.argument("overrides", nargs=-1)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("samples.png"), show_default=True)
@click.option("--count", type=click.IntRange(min=1), help="Number of images; default: the grid of training.")
@click.option("--class", "class_name", help="One class only, by name or number.")
@click.option("--prompt", "prompts", multiple=True, help="A caption to draw, for runs on captions; may be repeated.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--known-from",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Keep this image, or its middle square...",
)
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
    _check_options(parse_overrides(overrides), out_of_evaluation=bool(shard and not export), exports=bool(export))
    found = RunStore(root).find(run)
    needs_data: NeedsData = "always" if shard and not export else "never" if prompts else "captions"
    config = _evaluation_config(found, overrides, root, needs_data)
    if (known_from is None) != (mask is None):
        raise UserError("--known-from IMAGE and --mask LEFT,TOP,RIGHT,BOTTOM belong together; give both or neither.")
    configure_logging()
    if export or shard:
        if class_name or prompts or known_from:
            raise UserError("--export and --shard draw what an evaluation draws: without --class, --prompt and --mask.")
        _sample_share(config, found, export, count, seed, shard, overrides)
        return
    check_request(config, found, class_name=class_name, prompts=prompts, fills_in=known_from is not None)
    from experiments.sample_grid import sample_to_file

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
    check_trained(run)
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


def _check_options(values: Collection[str], *, out_of_evaluation: bool, exports: bool) -> None:
    """Refuse what would change nothing in the images that `sample` draws.

    Args:
        values: the overrides' keys.
        out_of_evaluation: those of an evaluation, which is asked for by overrides alone.
        exports: those of --export.
    """
    if out_of_evaluation:
        refuse_given("is of single images; --shard without --export draws what `ablate evaluate` measures", "out")
        refuse_given("needs --export; without it take evaluation.num_samples=N", "count")
        refuse_given("needs --export; without it take evaluation.seed=N", "seed")
        return
    if exports:
        refuse_given("is of a single picture; --export writes to the folder that it names", "out")
    instead = {"evaluation.num_samples": "take --count N", "evaluation.seed": "take --seed N"}
    context = click.get_current_context().params
    asked = (exports or context["count"]) and not (context["prompts"] or context["class_name"])
    for key in values:
        if key in OF_PROMPTS and not asked:
            raise UserError(f"{key} needs --count N, without --prompt: so many captions of those that it names.")
        if key.startswith("evaluation.") and key not in (*OF_PROMPTS, *OF_DRAWING):
            way = instead.get(key, "`ablate evaluate` takes it")
            raise UserError(f"{key} changes nothing in what `ablate sample` draws here; {way}.")


def _sample_share(
    config: RunConfig,
    run: Run,
    export: tuple[Kind, Path] | None,
    count: int | None,
    seed: int,
    shard: str | None,
    overrides: tuple[str, ...],
) -> None:
    """--export and --shard of `sample`."""
    from experiments.export import export_samples, share_of_evaluation
    from experiments.shards import parse_share

    share = parse_share(shard) if shard else None
    if export is None:
        assert share is not None
        share_of_evaluation(config, run, share)
        command = command_on(run, "evaluate", *overrides)
        click.echo(f"Drew share {shard}. When all shares are drawn, measure them with: {command}")
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
        root: of the outputs, where the run's folder is not in one.
        needs_data: always, where it is conditioned on captions, or never; where not, its data may be gone.

    Raises:
        UserError: an override of the training; a file that the run was made with is gone, or another one now; a run
            that trains a tokenizer.
    """
    values = parse_overrides(overrides)
    wrong = [k for k in values if k.partition(".")[0] not in (*EVALUATION, "runtime") and k not in MOVED]
    if wrong:
        raise UserError(
            f"{wrong[0]} would change the training; only sampler.*, evaluation.* and runtime.* can change here, and "
            f"where its files lie ({', '.join(MOVED)})."
        )
    if "runtime.num_nodes" in values:
        raise UserError(
            "runtime.num_nodes is of trainings: an evaluation is drawn on the devices of one machine, or by shares "
            "with `ablate sample RUN --shard I/K`."
        )
    stored = read_chain(run.config_path)
    if stored.get("objective", {}).get("name") == "reconstruction":
        how = how_to_use_tokenizer(run, stored["tokenizer"]["name"])
        raise UserError(f"Run {run.id} trains a tokenizer, of which nothing is sampled. {how}")
    on_class = stored.get("generator", {}).get("condition") == "class"
    needed = needs_data == "always" or (needs_data == "captions" and not on_class)
    for key in MOVED:
        section, _, name = key.partition(".")
        place = stored.get(section, {}).get(name, "")
        if key in values or place in ("", "embedded") or (section == "data" and not needed):
            continue
        if section == "text_encoder" and not Path(place).is_absolute():  # a name on the hub
            continue
        if not Path(place).exists():
            raise UserError(
                f"{key}={place}, which {run.id} was made with, is not there; put it back, or say where it is now with "
                f"{key}=PATH."
            )
    here = {"runtime.root": str(run.root or root), "runtime.num_nodes": 1}
    config = read_config(run.config_path, {**here, **values}, needs_data=needed)
    for key in OF_DATASET:
        if values.get(key) and not config.evaluation.dataset:
            raise UserError(f"{key} is of another data set's captions; name that too, with evaluation.dataset=NAME.")
    return config
