"""Parts of runs that commands on data take by name: tokenizers, text encoders, the device."""

from __future__ import annotations

from typing import Any

from experiments.errors import UserError


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

    from experiments.overrides import explain, parse_overrides

    config = OmegaConf.structured(kind)
    try:
        for key, value in parse_overrides(settings).items():
            OmegaConf.update(config, key.removeprefix(prefix), value)
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error


def load_tokenizer(config: Any, device: str) -> Any:
    """The tokenizer on a device, frozen."""
    from lightning_modules.tokenizers.config import TOKENIZERS

    return TOKENIZERS.build(config).eval().requires_grad_(False).to(device)


def working_device(name: str) -> str:
    """ "cpu" or "cuda" for what --device says. Raises UserError for cuda where there is none."""
    from experiments.process import usable_device

    return usable_device(name, "--device ")
