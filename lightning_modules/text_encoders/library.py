"""Loading encoders through Hugging Face transformers, which the suite does without until a caption needs it."""

from __future__ import annotations

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
