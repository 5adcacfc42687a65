"""How commands print: tables, sentences, JSON. Torch-free."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_OF_A_LOG = 160
"""Characters a line where the output is no terminal and has no width of its own."""


def console() -> Console:
    """On standard output, as wide as the terminal."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDTH_OF_A_LOG)


def say(text: str) -> None:
    """Print a sentence there as it is, which the terminal wraps."""
    console().print(text, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print what `--json` asks for."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
