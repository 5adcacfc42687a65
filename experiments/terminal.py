"""How commands print: tables, sentences, JSON. Torch-free."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_OF_A_LOG = 160
"""Characters a line where the output is no terminal and has no width of its own."""


def console() -> Console:
    """On standard output, as wide as the terminal. What stands in square brackets or between colons, as in a label or
    the name of a folder, is printed as it is."""
    from rich.console import Console

    plain = partial(Console, highlight=False, markup=False, emoji=False)
    found = plain()
    return found if found.is_terminal else plain(width=WIDTH_OF_A_LOG)


def say(text: str) -> None:
    """Print a sentence there as it is, which the terminal wraps."""
    console().print(text, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print what `--json` asks for."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
