"""What is said of a name that is none of the valid ones."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: str, valid: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest valid word, or an empty string."""
    match = get_close_matches(given, list(valid), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""


def unknown_name(kind: str, given: str, valid: Iterable[str]) -> str:
    """The sentence for a name of a kind, e.g. "generator", with the closest valid one."""
    names = sorted(valid)
    return f"Unknown {kind} '{given}'.{did_you_mean(given, names)} Valid: {', '.join(names)}."
