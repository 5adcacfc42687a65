"""What commands say about a run that is not as they need it, or is done: which command comes next. Torch-free."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.checks import evaluation_data
from experiments.config import load_config
from experiments.errors import UserError
from experiments.files import default_root
from experiments.identity import run_id
from experiments.provenance import other_code
from experiments.run_config import RunConfig
from experiments.runs import origin_of
from experiments.store import Run
from lightning_modules.hashing import file_crc32


def check_trained(run: Run, named: str = "") -> None:
    """Check that a run that is to be sampled from, or started from, is done.

    Args:
        named: where it was named, such as "trainer.init_from=maskmamba-12345678"; else it is called by its id.

    Raises:
        UserError: it is not; says how far it is, and what trains it to its end.
    """
    if run.is_done():
        return
    status = run.inspect()
    far = f"step {status.step} of {status.max_steps}, " if status.max_steps else ""
    raise UserError(
        f"{named or f'Run {run.id}'} is not trained yet ({far}{status.state}); train it first: {_command(run)}"
    )


def check_weights(run: Run) -> None:
    """Raise UserError where a run's weights are not those that were written; those without a checksum pass."""
    expected = (run.result() or {}).get("weights_crc32")
    if not expected or not run.final_weights.is_file() or (found := file_crc32(run.final_weights)) == expected:
        return
    raise UserError(
        f"{run.final_weights} is damaged: its checksum is {found}, that of what was written {expected}. Put back a "
        f"copy of it, or move {run.folder} away and make the run again: {_command(run)}"
    )


def _command(run: Run) -> str:
    """What trains just this run: its preset with its own words, or its configuration where these mean another today."""
    preset, words = origin_of(run)
    if any(word.startswith("imported=") for word in words):
        return "ablate import-checkpoint KIND FILE"
    words = [word for word in words if not word.startswith("runtime.root=")]
    where = ["--root", str(run.root or default_root())]
    config: RunConfig | None = None
    with suppress(UserError):
        config = load_config(preset, words)
    if config is None or run_id(config) != run.id:
        # Its configuration names the folder of outputs that it was begun in, which may have been moved since.
        return shlex.join(["ablate", "train", str(run.config_path), *where])
    elsewhere = config.root.resolve() != Path(where[1]).resolve()  # which the preset's file may say, too
    return shlex.join(["ablate", "train", preset, *words, *(where if elsewhere else [])])


def command_on(run: Run, name: str, *words: str) -> str:
    """`ablate NAME` with a run and further words, as it is typed to find just this run."""
    return shlex.join(["ablate", name, run.id if run.root else str(run.folder), *words, *_where(run)])


def _where(run: Run) -> list[str]:
    """What a command needs to find a run that is not where runs are by default."""
    root = run.root
    return ["--root", str(root)] if root and root.resolve() != Path(default_root()).resolve() else []


def done_before(done: str, folder: Path, result: Mapping[str, Any], way_out: str = "") -> str:
    """What is said of work that was done already: also that other code did it, which may give other numbers.

    Args:
        done: what was done, such as "trained".
        way_out: beside moving its `folder` away.
    """
    if not (other := other_code(result)):
        return f"Nothing to do, it is {done} already."
    ways = ", ".join(filter(None, (f"move {folder} away", way_out)))
    return (
        f"Nothing to do, it is {done} already, but by the code of {other}, which is not this one. To have it from this "
        f"code, {ways}."
    )


def how_to_use(config: RunConfig, run: Run) -> str:
    """What to do with a finished training: the command that measures it, and where its data bring no real images along,
    the one that makes statistics of some; of a tokenizer, the keys that take it."""
    if config.trains_tokenizer:
        return how_to_use_tokenizer(run, config.tokenizer.name)
    wanted = config.evaluation
    try:
        data = evaluation_data(config)
    except UserError:  # an evaluation that lacks a key, as the command will say
        data = None
    if data is None or wanted.reference_file or wanted.prompt_file or data.has_images:
        return f"Evaluate it with: {command_on(run, 'evaluate')}"
    kind, source = data.images()
    made = ["ablate", "reference", kind, "--source", source]
    made += ["--split", wanted.prompts if wanted.dataset else "train", "--size", str(config.tokenizer.image_size)]
    return (
        "Its data bring no real images to measure against. Make statistics of some, once, and evaluate it with:\n"
        f"  {shlex.join([*made, '--out', 'FILE'])}\n"
        f"  {command_on(run, 'evaluate', f'evaluation.{wanted.reference_key}=FILE')}"
    )


def how_to_use_tokenizer(run: Run, name: str) -> str:
    """The keys that take the tokenizer of a stage 1 run."""
    return f"Train on its tokens with: tokenizer.name={name} tokenizer.weights={run.final_weights}"
