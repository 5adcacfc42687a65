"""AiM's published checkpoints: what architecture they hold, and their weights under this suite's names.

A file holds the generator under `mamba.` and its tokenizer under `vqvae.`; a bare generator has no prefix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_modules.generators.configs.aim import AiMConfig
from lightning_modules.layers.config import Mamba2Config

EARLIER_NAMES = {
    "vq_vae.": "vqvae.",
    "shared_adaln.": "adaln_group.",
    "adaln_single.": "adaln_group.",
    "adaLN_parameters": "scale_shift_table",
}
"""Names in files from before the release."""
WHOLE = {
    "embeddings.word_embeddings.weight": "token_embedding.weight",
    "embeddings.position_embeddings.weight": "position_embedding.weight",
    "cls_embed.embedding_table.weight": "condition.table.weight",
    "adaln_group.1.weight": "adaln.project.weight",
    "adaln_group.1.bias": "adaln.project.bias",
    "norm_f.weight": "norm.weight",
    "final_layer.norm_final.weight": "final_norm.weight",
    "final_layer.adaLN_modulation.1.weight": "final_adaln.project.weight",
    "final_layer.adaLN_modulation.1.bias": "final_adaln.project.bias",
}
LAYER = {"mixer.conv1d.weight": "mixer.conv.weight", "mixer.conv1d.bias": "mixer.conv.bias"}
MODULATION = {
    "scale_shift_table": "adaln.table",
    "adaLN_modulation.1.weight": "adaln.project.weight",
    "adaLN_modulation.1.bias": "adaln.project.bias",
}
"""Per layer there, one tensor here."""


@dataclass
class PublishedAiM:
    """A published checkpoint, taken apart."""

    config: AiMConfig
    weights: dict[str, Tensor]
    """Under this suite's names."""
    tokenizer: dict[str, Tensor] | None
    """The VQ-16 inside the file, under LlamaGen's names."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the import should know."""


def read_aim(state: Mapping[str, Tensor], grid_size: int | None = None) -> PublishedAiM:
    """Take a published state dictionary apart.

    Args:
        grid_size: side of the token grid; None = the position table has one row more than there are tokens.

    Raises:
        ValueError: it is no AiM, or its tensors contradict each other.
    """
    state = {_current_name(key): value for key, value in state.items()}
    tokenizer = {key.removeprefix("vqvae."): value for key, value in state.items() if key.startswith("vqvae.")}
    body = {key.removeprefix("mamba."): value for key, value in state.items() if not key.startswith("vqvae.")}
    head = body.pop("lm_head.weight", None)
    body = {key.removeprefix("backbone."): value for key, value in body.items()}
    try:
        config = _config(body, grid_size)
    except KeyError as error:
        raise ValueError(f"This is no published AiM checkpoint: it has no {error.args[0]!r}.") from error
    weights, notes = translate(body), []
    if head is not None and not torch.equal(head, weights["token_embedding.weight"]):
        config.tied_head = False
        weights["head.weight"] = head
        notes.append("lm_head.weight differs from the token table, so the head is not tied.")
    rows = config.grid_size**2 + 1
    table = weights.get("position_embedding.weight")
    if table is not None and len(table) > rows:
        weights["position_embedding.weight"] = table[:rows]
        notes.append(f"The first {rows} of {len(table)} position rows are kept; {rows - 1} tokens use no more.")
    if config.adaln == "group" and _all_equal(weights["adaln.project.weight"].chunk(config.adaln_groups)):
        notes.append(
            f"All {config.adaln_groups} groups of the adaLN hold the same weights: really an adaLN-single model."
        )
    return PublishedAiM(config, weights, tokenizer or None, notes)


def translate(body: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the backbone's published names -> under this suite's; unknown names stay as they are."""
    result: dict[str, Tensor] = {}
    stacked: dict[str, dict[int, Tensor]] = {}
    for key, value in body.items():
        match = re.fullmatch(r"layers\.(\d+)\.(.+)", key)
        if match is None:
            result[WHOLE.get(key, key)] = value
        elif match[2] in MODULATION:
            stacked.setdefault(MODULATION[match[2]], {})[int(match[1])] = value
        else:
            value = value[:, 0] if match[2] == "mixer.conv1d.weight" else value
            result[f"layers.{match[1]}.{LAYER.get(match[2], match[2])}"] = value
    for key, layers in stacked.items():
        result[key] = torch.cat([layers[i] for i in sorted(layers)])
    return result


def _config(body: Mapping[str, Tensor], grid_size: int | None) -> AiMConfig:
    """The architecture that shapes and names tell."""
    vocabulary, width = body["embeddings.word_embeddings.weight"].shape
    positions = body.get("embeddings.position_embeddings.weight")
    if grid_size is None:
        grid_size = math.isqrt(len(positions) - 1) if positions is not None else 16
    if positions is not None and len(positions) < grid_size**2 + 1:
        raise ValueError(
            f"The checkpoint has {len(positions)} position rows, too few for {grid_size} x {grid_size} tokens; "
            "name a preset of a smaller grid with --preset."
        )
    shared = body.get("adaln_group.1.weight")
    groups = 4 if shared is None else len(shared) // (3 * width)
    per_layer = "layers.0.adaLN_modulation.1.weight" in body
    inner, heads = body["layers.0.mixer.out_proj.weight"].shape[1], len(body["layers.0.mixer.A_log"])
    taps = body["layers.0.mixer.conv1d.weight"]
    return AiMConfig(
        vocab_size=vocabulary,
        grid_size=grid_size,
        num_classes=len(body["cls_embed.embedding_table.weight"]) - 1,
        width=width,
        depth=1 + max(int(match[1]) for key in body if (match := re.match(r"layers\.(\d+)\.", key))),
        mamba2=Mamba2Config((len(taps) - inner) // 2, taps.shape[-1], inner // width, inner // heads),
        adaln="per_layer" if per_layer else "none" if shared is None else "single" if groups == 1 else "group",
        adaln_groups=groups,
        adaln_init="random" if shared is not None else "zero",
        final_adaln="final_layer.adaLN_modulation.1.weight" in body,
        position_embedding=positions is not None,
    )


def _current_name(key: str) -> str:
    for old, new in EARLIER_NAMES.items():
        key = key.replace(old, new)
    return key


def _all_equal(parts: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(part, parts[0]) for part in parts[1:])
