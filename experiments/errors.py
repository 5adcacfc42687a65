"""Errors that a person caused or can fix: shown as one sentence, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(Exception):
    """A request that cannot be carried out: what was given, what is valid, the way out. Exit code 2."""


class CellError(Exception):
    """A run that failed for a reason worth one sentence; the other cells of a sweep go on. Exit code 1."""


def did_you_mean(given: str, valid: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest valid word, or an empty string."""
    match = get_close_matches(given, list(valid), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""


def unknown(kind: str, given: str, valid: Iterable[str]) -> UserError:
    """The error for a name that is not among the valid ones."""
    names = sorted(valid)
    return UserError(f"Unknown {kind} '{given}'.{did_you_mean(given, names)} Valid: {some(names, 100)}.")


def some(names: Sequence[str], most: int = 20) -> str:
    """Names in a sentence, the first ones of very many: a sweep may have thousands of cells."""
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more:,} more"
