"""Whether the parts of a configuration fit together, and whether all files are named that a run needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from datamodules.config import DATASETS
from datamodules.counts import check_batch
from experiments.errors import UserError, unknown
from lightning_modules.metrics.config import LEAST_IMAGES
from lightning_modules.metrics.reference_file import check_file

if TYPE_CHECKING:
    from experiments.run_config import RunConfig


def check_parts(config: RunConfig) -> None:
    """Raise UserError where data, text encoder, generator, objective and sampler are not made for each other."""
    if not config.trains_tokenizer:
        _check_objective(config)
        _check_positions(config)
    _check_condition(config)
    watch, measured = config.trainer.watch, config.objective.validates
    if config.trainer.selects and watch not in measured:
        raise unknown(f"metric of objective '{config.objective.name}' (trainer.watch)", watch, measured)


def check_processes(config: RunConfig) -> None:
    """Raise UserError where a training cannot be shared out among its processes."""
    batch, parts = config.trainer.batch_size, _parts(config)
    if batch % parts:
        raise UserError(f"trainer.batch_size={batch} must be a multiple of accumulate x devices x nodes = {parts}.")
    if config.runtime.strategy != "fsdp":
        return
    obstacles = {
        "objective.name=reconstruction, whose networks are small": config.trains_tokenizer,
        "optim.optimizer=came, whose moments are those of whole rows and columns": config.optim.optimizer == "came",
        "trainer.precision=fp16, whose gradients are scaled": config.trainer.precision == "fp16",
        "trainer.compile=true": config.trainer.compile,
    }
    if found := [words for words, stands in obstacles.items() if stands]:
        raise UserError(f"runtime.strategy=fsdp does not go with {found[0]}; take runtime.strategy=ddp or change that.")


def check_files(config: RunConfig, *, evaluated: bool = False) -> None:
    """Check that the files are named that a run needs to begin; to be planned it needs none of them.

    Args:
        evaluated: check what measuring the run needs, too.

    Raises:
        UserError: no weights of the tokenizer, or no folder of the data, no text encoder; nothing to measure against,
            or statistics that do not fit, or too few samples.
    """
    tokenizer, data = config.tokenizer, config.data
    if config.benchmark.name != "none":  # random weights, random data
        return
    weights = getattr(type(tokenizer), "weights", None)  # "embedded", or empty: a file that the user has
    if weights == "" and tokenizer.weight_file() is None and not config.trains_tokenizer:
        raise UserError(
            f"The tokenizer {tokenizer.name} has no weights of its own; name the published file or folder with "
            "tokenizer.weights=PATH."
        )
    if missing := data.lacks():
        raise UserError(f"data.name={data.name} needs {missing}.")
    if getattr(config.text_encoder, "model", "none") == "":
        raise UserError(
            f"text_encoder.name={config.text_encoder.name} needs text_encoder.model=FOLDER, or a name on the Hugging "
            "Face hub."
        )
    _check_batch(config)
    if not evaluated or config.trains_tokenizer:
        return
    data = evaluation_data(config)
    wanted = config.evaluation
    if not (wanted.reference_file or wanted.prompt_file or data.has_images):
        raise UserError(
            f"{'evaluation.dataset' if wanted.dataset else 'data.name'}={data.name} needs "
            f"evaluation.{wanted.reference_key}=FILE, statistics of its real images to measure against, from "
            "`ablate reference` or as published for ADM."
        )
    if not wanted.prompt_file and wanted.num_samples < LEAST_IMAGES:
        raise UserError(
            f"evaluation.num_samples={wanted.num_samples} must be at least {LEAST_IMAGES}: they are compared with real "
            "images."
        )
    if wanted.reference_file:
        try:
            check_file(Path(wanted.reference_file), config.tokenizer.image_size)
        except (FileNotFoundError, ValueError) as error:
            raise UserError(str(error)) from error


def evaluation_data(config: RunConfig) -> Any:
    """Configuration of the data that prompts and real images are from: the run's own, or `evaluation.dataset`.

    Raises:
        UserError: another data set whose folder is not named.
    """
    wanted = config.evaluation
    if not wanted.dataset:
        return config.data
    data = DATASETS[wanted.dataset].config(condition="caption")
    if data.folder_key:
        if not wanted.dataset_root:
            raise UserError(
                f"evaluation.dataset={data.name} needs evaluation.dataset_root=FOLDER with the store {wanted.prompts}/ "
                f"(`ablate tokenize {data.name}`); `evaluation.dataset=` takes the captions of {config.data.name}."
            )
        setattr(data, data.folder_key, wanted.dataset_root)
    return data


def _check_batch(config: RunConfig) -> None:
    """Raise UserError where a batch holds more images than there are to train on, as the sampler would later."""
    try:
        if count := config.data.training_images():
            check_batch(count, config.trainer.batch_size, _parts(config))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from error


def _parts(config: RunConfig) -> int:
    """How many parts a batch is computed in."""
    return config.trainer.accumulate * config.runtime.processes


def _check_objective(config: RunConfig) -> None:
    """The generator and the sampler must be made for the objective."""
    for section in ("generator", "sampler"):
        part = getattr(config, section)
        if part.objective != config.objective.name:
            raise UserError(
                f"{section}.name={part.name} is made for objective.name={part.objective}, not for "
                f"{config.objective.name}; set {section}.name and objective.name to parts that belong together."
            )


def _check_positions(config: RunConfig) -> None:
    """The shifted positions of AiM's published code need AiM's table of positions."""
    shift, generator = getattr(config.sampler, "position_shift", "correct"), config.generator
    if shift == "correct" or getattr(generator, "position_embedding", False):
        return
    without = f"name={generator.name}" if generator.name != "aim" else "position_embedding=false"
    raise UserError(
        f"sampler.position_shift={shift} shifts the rows of AiM's position table, of which there is none with "
        f"generator.{without}; take sampler.position_shift=correct."
    )


def _check_condition(config: RunConfig) -> None:
    """Labels or captions: data, text encoder and generator must agree."""
    asked, given = config.generator.condition, "class" if config.data.num_classes else "text"
    if asked != given:
        if config.data.condition == "class":  # of a folder that is not named, whose classes are not known
            check_files(config)
        data = {"class": "class", "text": "caption"}
        takes = get_args(get_type_hints(type(config.generator))["condition"])
        generator = f"generator.condition={given} or " if given in takes else ""
        raise UserError(
            f"generator.condition={asked} does not fit the data: '{config.data.name}' gives "
            f"{'class labels' if given == 'class' else 'captions'}; set {generator}"
            f"data.condition={data[asked]}."
        )
    if (asked == "text") != (config.text_encoder.name != "none"):
        raise UserError(
            f"generator.condition={asked} does not go with text_encoder.name={config.text_encoder.name}: captions "
            "need a text encoder, class labels need text_encoder.name=none."
        )
