"""Miniatures of the ways in which image collections lie on disk, and a tokenizer that tells images apart.

Image number i is a square of the grey level 4 i; its token is i, its caption names i, its label is i % 3.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datamodules.sources.records import Record, Refused, Source
from datamodules.tokenize.encode import Work
from datamodules.tokenize.job import Job, tokenize
from datamodules.tokenize.merge import Summary

STEP, CLASSES = 4, 3
SYNSETS = ("n01440764", "n01443537", "n02084071")


@dataclass
class ToyConfig:
    """4 tokens for 16 x 16 pixels."""

    name: str = "toy"
    weights: str = ""
    image_size: int = 16
    grid_size: int = 2
    vocab_size: int = 64
    latent_channels: int = 0
    fingerprint: str = "toy-weights"


class Toy:
    """The mean grey level of each quarter over `STEP`."""

    def encode_uint8(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8 and images.shape[1:] == (16, 16, 3)
        quarters = images.float().unflatten(2, (2, 8)).unflatten(1, (2, 8)).mean((2, 4, 5))
        return (quarters / STEP).round().long().flatten(1)

    def decode_uint8(self, tokens: torch.Tensor) -> torch.Tensor:
        quarters = (tokens * STEP).to(torch.uint8).reshape(-1, 2, 2)
        return quarters.repeat_interleave(8, 1).repeat_interleave(8, 2)[..., None].expand(-1, -1, -1, 3)


class ToyLatents(Toy):
    """Latents of one channel, a little beside the grey level."""

    def encode_uint8(self, images: torch.Tensor) -> torch.Tensor:
        return super().encode_uint8(images).reshape(-1, 1, 2, 2) + 0.1


def picture(number: int, size: tuple[int, int] = (20, 18), mode: str = "RGB") -> Image.Image:
    """Image number i."""
    return Image.new("RGB", size, (number * STEP,) * 3).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def caption(number: int) -> str:
    """Caption of image number i."""
    return f"picture {number}"


def class_tree(folder: Path, numbers: Iterable[int], names: tuple[str, ...] = SYNSETS) -> Path:
    """FOLDER/CLASS/i.png"""
    for number in numbers:
        path = folder / names[number % CLASSES] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number)))
    return folder


def tar_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar file of these members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def annotated_shard(path: Path, annotations: Iterable[object]) -> Path:
    """A tar file of images 0, 1, .., each with the JSON of one annotation beside it."""
    members = []
    for i, data in enumerate(annotations):
        members += [(f"{i}.png", encoded(picture(i))), (f"{i}.json", json.dumps(data).encode())]
    return tar_shard(path, members)


def overwritten(content: bytes, start: int, stop: int, value: bytes = b"\0") -> bytes:
    """The bytes with `value` in each place from `start` to before `stop`."""
    return content[:start] + value * (stop - start) + content[stop:]


def img2dataset(number: int) -> list[tuple[str, bytes]]:
    """What img2dataset writes for image number i."""
    name, text = f"{number:09d}", caption(number)
    data = json.dumps({"key": name, "caption": text, "status": "success"})
    return [(f"{name}.jpg", encoded(picture(number))), (f"{name}.json", data.encode()), (f"{name}.txt", text.encode())]


def coco(folder: Path, numbers: Iterable[int], captions: int = 5) -> Path:
    """FOLDER/val2014 and FOLDER/annotations/captions_val2014.json; image i has the number 1000 - i."""
    (folder / "val2014").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for number in numbers:
        name = f"COCO_val2014_{1000 - number:012d}.jpg"
        (folder / "val2014" / name).write_bytes(encoded(picture(number)))
        images.append({"id": 1000 - number, "file_name": name})
        for k in range(captions):
            annotations.append(
                {"id": k * 1000 + number, "image_id": 1000 - number, "caption": f"{caption(number)} no {k}"}
            )
    content = {"images": images, "annotations": annotations}
    (folder / "annotations/captions_val2014.json").write_text(json.dumps(content))
    return folder


def run(
    dataset: str,
    source: Path,
    out: Path,
    split: str = "train",
    *,
    work: Work | None = None,
    toy: Toy | None = None,
    **job: object,
) -> Summary | None:
    """Tokenize with the toy tokenizer; `job` are fields of `Job`."""
    config = ToyConfig(vocab_size=0, latent_channels=1) if isinstance(toy, ToyLatents) else ToyConfig()
    options = {"unit_size": 4, "crops": ("centre",)} | job
    return tokenize(
        Job(dataset, source, out, split, **options),
        config,
        lambda: toy or Toy(),
        work or Work(batch_size=3),  # type: ignore[arg-type]
    )


Found = tuple[dict[str, tuple[str, ...]], dict[str, int | None], dict[str, str]]


def read_all(source: Source) -> Found:
    """Everything in a source: key -> captions, key -> label, key -> reason of refusal."""
    found = [record for unit in range(len(source.units)) for record in source.read(unit)]
    records = [record for record in found if isinstance(record, Record)]
    refused = {record.key: record.reason for record in found if isinstance(record, Refused)}
    return {r.key: r.captions for r in records}, {r.key: r.label for r in records}, refused


def refusals(store: Path) -> dict[str, str]:
    """Key -> reason of what a tokenization left out."""
    return dict(json.loads((store / "report.json").read_text(encoding="utf-8"))["refused"])


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file beneath a folder, by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def numbers_of(tokens: np.ndarray) -> list[int]:
    """(N, V, L) -> which image each is, from its first view."""
    assert (tokens[:, 0] == tokens[:, 0, :1]).all()
    return tokens[:, 0, 0].tolist()
