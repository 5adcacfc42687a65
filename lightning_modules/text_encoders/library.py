"""Loading encoders through Hugging Face transformers, which the suite does without until a caption needs it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import ModuleType


def import_transformers(why: str) -> ModuleType:
    """The library, quiet.

    Args:
        why: what needs it, the beginning of the error's sentence.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ValueError(f'{why} needs the extra text, which is not installed: pip install -e ".[text]".') from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def check_whole(source: str, info: Mapping[str, Collection[str]], model_class: str) -> None:
    """Raise ValueError where a folder lacks weights, which the library draws at random, anew in every process.

    Args:
        source: what names the folder, the beginning of the error's sentence.
        info: what `from_pretrained` says with `output_loading_info`.
    """
    if missing := sorted(info["missing_keys"]):
        first = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
        raise ValueError(f"{source} lacks {first}; name a folder with all of {model_class}.")
