"""What a tokenization consists of: written once beside its parts, compared whenever somebody works on them.

OUT/SPLIT.parts/plan.json    settings, source and units; the same for every process that takes part
OUT/SPLIT.parts/00000.npz    one per unit: codes, and as JSON keys, labels, captions, what was refused and why
OUT/SPLIT/                   the store, merged out of the parts when all are there
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import atomic_write, work_lock

SCHEMA = 1


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of the store.

    Attributes:
        dataset, split: what is tokenised.
        source: fingerprint of the source.
        units: names of the units, in order.
        class_names: empty where there are captions only.
        views: names of the views.
        image_size: side of the crops, in pixels.
        exif: whether EXIF orientations are applied.
        tokenizer: name.
        tokenizer_fingerprint: sha256 of its weights.
        settings: the tokenizer's configuration without the place of its weights.
        vocab_size: 0 for latents.
        codes_shape: [L] tokens, or [C, h, w] latents.
    """

    dataset: str
    split: str
    source: str
    units: list[str]
    class_names: list[str]
    views: list[str]
    image_size: int
    exif: bool
    tokenizer: str
    tokenizer_fingerprint: str
    settings: dict[str, Any]
    vocab_size: int
    codes_shape: list[int]

    @property
    def latents(self) -> bool:
        """Whether the tokenizer makes latents instead of tokens."""
        return len(self.codes_shape) == 3


@dataclass
class Part:
    """The result of one unit: n images.

    Attributes:
        codes: (n, V, L) uint16 or (n, V, C, h, w) float16.
        labels, keys, captions: n of each.
        refused: (key, reason) of what was left out.
        notes: what was unusual -> how often.
    """

    codes: np.ndarray
    labels: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    refused: list[list[str]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)


def parts_folder(out: Path, split: str) -> Path:
    """Where the parts of a split are kept until they are merged."""
    return out / f"{split}.parts"


def part_path(folder: Path, unit: int) -> Path:
    """The file of one unit."""
    return folder / f"{unit:05d}.npz"


def agree(folder: Path, plan: Plan) -> None:
    """Write the plan, or compare it with the one that parts were made by.

    Raises:
        ValueError: they differ, naming the first difference.
    """
    path = folder / "plan.json"
    with work_lock(folder / ".plan.lock"):  # of commands that begin together one is the first
        if not path.is_file():
            content = json.dumps({"schema": SCHEMA, **asdict(plan)}, indent=1)  # ASCII, whatever names shards have
            atomic_write(path, lambda stream: stream.write(content.encode()))
    other = read_plan(folder)
    for key, value in asdict(plan).items():
        if (found := getattr(other, key)) != value:
            raise ValueError(
                f"{folder} holds parts made with {key} = {_short(found)}, this command has {_short(value)}; "
                "use the same settings and source, or remove that folder to begin anew."
            )


def read_plan(folder: Path) -> Plan:
    """The plan of a folder of parts.

    Raises:
        FileNotFoundError: none there.
        ValueError: damaged, or of another version.
    """
    path = folder / "plan.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no tokenization to go on with: there is no plan.json.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("schema") != SCHEMA:
            raise KeyError("schema")
        return Plan(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or of another version; remove {folder} and tokenize again.") from error


def write_part(path: Path, part: Part) -> None:
    """Write a part, atomically."""
    text = {name: value for name, value in vars(part).items() if name != "codes"}
    buffer = io.BytesIO()
    np.savez(buffer, codes=part.codes, text=np.frombuffer(json.dumps(text).encode(), np.uint8))
    atomic_write(path, lambda stream: stream.write(buffer.getbuffer()))


def read_part(path: Path, codes: bool = True) -> Part:
    """Read a part, or only what it says of its images, without their codes. Raises ValueError if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Part(file["codes"] if codes else np.empty(0), **json.loads(file["text"].tobytes()))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged; remove it and run the same command again.") from error


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
