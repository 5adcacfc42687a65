"""Names in sentences: lists of many, and what is said of one that is none of the valid ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def did_you_mean(given: str, valid: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest valid word, or an empty string."""
    match = get_close_matches(given, list(valid), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""


def unknown_name(kind: str, given: str, valid: Iterable[str]) -> str:
    """The sentence for a name of a kind, e.g. "generator", with the closest valid one."""
    names = sorted(valid)
    return f"Unknown {kind} '{given}'.{did_you_mean(given, names)} Valid: {some(names, 100)}."


def some(names: Sequence[str], most: int = 20) -> str:
    """Names in a sentence, the first ones of very many: "a, b, c and 4 more". A sweep may have thousands of cells."""
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more:,} more"
