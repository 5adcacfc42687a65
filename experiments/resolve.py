"""What follows from other values of a configuration: fingerprints of files, sizes that one part gives another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from datamodules.config import DATASETS
from datamodules.counts import check_batch
from experiments.errors import UserError, unknown
from experiments.flat import flatten
from experiments.lineage import start_of
from lightning_modules.hashing import file_sha256
from lightning_modules.metrics.config import IN_PLACE_OF, LEAST_IMAGES
from lightning_modules.metrics.reference_file import check_file
from lightning_modules.text_encoders.checkpoint import weights_fingerprint

if TYPE_CHECKING:
    from experiments.run_config import RunConfig

SIZES = {
    "tokenizer": ("vocab_size", "grid_size", "latent_channels"),
    "data": ("num_classes",),
    "text_encoder": ("text_tokens", "text_width", "pooled_width"),
}
"""Sizes of the generator that follow from another part; 0 in the generator means "as that part has it"."""
FILES = {
    "data.fingerprint": ("root", "source"),
    "tokenizer.fingerprint": ("weights",),
    "text_encoder.fingerprint": ("model",),
    "generator.pretrained_fingerprint": ("pretrained_ends",),
    "trainer.init_fingerprint": ("init_from",),
}
"""Fingerprint -> keys of its section that name the files it is taken of; where none does, they come with the suite."""


def resolve(config: RunConfig, *, trains: bool = True) -> RunConfig:
    """Fill in fingerprints and the generator's sizes, and check that the parts fit together.

    Args:
        trains: the configuration is to be trained. Where it is only sampled or measured, what a training starts from is
            not looked up, and whether its processes can share a batch is not checked.

    Raises:
        UserError: a file that is not there, or parts that do not fit.
    """
    try:
        if weights := config.tokenizer.weight_file():
            config.tokenizer.fingerprint = _fingerprint(weights, "tokenizer.weights")
        config.data.fit(config.tokenizer)
        config.data.resolve()
        if not config.trains_tokenizer:
            config.data.check_tokenizer(config.tokenizer)
        config.text_encoder.resolve()
        if trains and hasattr(config.generator, "resolve"):
            config.generator.resolve()
        for network in ("inception", "dinov2"):
            key = f"{network}_weights"
            if weights := getattr(config.evaluation, key):
                fingerprint = _fingerprint(Path(weights), f"evaluation.{key}")
                setattr(config.evaluation, f"{network}_fingerprint", fingerprint)
        if reference := config.evaluation.reference_file:
            named = f"evaluation.{config.evaluation.reference_key}"
            config.evaluation.reference_fingerprint = _fingerprint(Path(reference), named)
        if config.search.space and config.evaluation.inception_weights:
            config.search.metric = IN_PLACE_OF.get(config.search.metric, config.search.metric)
        _resolve_captions(config)
        if config.trainer.init_from and trains:
            config.trainer.init_fingerprint = start_of(config).fingerprint
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from error
    if not config.trains_tokenizer:
        _check_objective(config)
        _check_positions(config)
    _check_condition(config)
    watch, measured = config.trainer.watch, config.objective.validates
    if config.trainer.selects and watch not in measured:
        raise unknown(f"metric of objective '{config.objective.name}' (trainer.watch)", watch, measured)
    if trains:
        _check_processes(config)
    for section, keys in SIZES.items():
        for key in keys:
            _pass_on(config, section, key)
    return config


def check_unchanged(stored: Mapping[str, Any], config: RunConfig, path: Path) -> None:
    """Check that the files of a stored training (data, weights of other parts) are still those that it was made with.

    Args:
        stored: its nested values as they were read; a fingerprint that they do not have is not compared.
        config: built from them, with fingerprints of today's files.
        path: where they were read, for the error.

    Raises:
        UserError: a file of the training was replaced, whose fingerprint and place are named.
    """
    then, now = flatten(stored), flatten(dataclasses.asdict(config))
    for key, names in FILES.items():
        if not then.get(key) or then[key] == now.get(key):
            continue
        section = key.partition(".")[0]
        given = [f"{section}.{name}={now[f'{section}.{name}']}" for name in names if now.get(f"{section}.{name}")]
        what = given[0] if given else f"{section}.name={now[f'{section}.name']}, which comes with the suite,"
        raise UserError(
            f"{what} is not what {path} was made with: its {key} was {then[key][:12]} and is {str(now.get(key))[:12]}. "
            "Put back what was there, or train a new run with what is there now."
        )


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


def _resolve_captions(config: RunConfig) -> None:
    """Fingerprints of what only runs on captions are evaluated with."""
    wanted = config.evaluation
    models = ("clip", "blip_vqa", "detector")
    for key in ("dataset", "prompt_file", *(f"{model}_weights" for model in models)):
        if getattr(wanted, key) and config.generator.condition == "class":
            raise ValueError(f"evaluation.{key} needs a run on captions; this one is conditioned on classes.")
    captioned = [name for name in DATASETS.names() if "caption" in DATASETS[name].config.possible]
    if wanted.dataset and wanted.dataset not in captioned:
        raise unknown("data set with captions (evaluation.dataset)", wanted.dataset, captioned)
    for model in models:
        if folder := getattr(wanted, f"{model}_weights"):
            setattr(wanted, f"{model}_fingerprint", weights_fingerprint(Path(folder)))
    if wanted.prompt_file:
        wanted.prompt_fingerprint = _fingerprint(Path(wanted.prompt_file), "evaluation.prompt_file")
    if wanted.dataset and wanted.dataset_root:
        meta = Path(wanted.dataset_root) / wanted.prompts / "meta.json"
        wanted.dataset_fingerprint = _fingerprint(meta, "evaluation.dataset_root")


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


def _check_processes(config: RunConfig) -> None:
    """Whether a training can be shared out among its processes."""
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


def _pass_on(config: RunConfig, section: str, key: str) -> None:
    """Set `generator.key` from a part that has it, or check that it is what the part has."""
    part, generator = getattr(config, section), config.generator
    if not hasattr(generator, key):
        return
    own, value = getattr(generator, key), getattr(part, key, 0)
    if value and own not in (0, value):
        raise UserError(
            f"generator.{key}={own} does not fit the {section} '{part.name}', which has {value}; "
            f"leave it at 0 to follow the {section}."
        )
    if not own and value:
        setattr(generator, key, value)
    if not value and section == "tokenizer" and not config.trains_tokenizer:
        raise UserError(f"generator.name={generator.name} needs a tokenizer with {key}; '{part.name}' has none.")


def _fingerprint(path: Path, key: str) -> str:
    if not path.is_file():
        what = "FOLDER" if path.name == "meta.json" else "FILE"
        raise FileNotFoundError(f"{path} not found; name the {what.lower()} with {key}={what}.")
    return file_sha256(path)
