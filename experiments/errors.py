"""Errors that a person caused or can fix: shown as one sentence, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_modules.names import unknown_name


class UserError(Exception):
    """A request that cannot be carried out: what was given, what is valid, the way out. Exit code 2."""


class CellError(Exception):
    """A run that failed for a reason worth one sentence; the other cells of a sweep go on. Exit code 1."""


def unknown(kind: str, given: str, valid: Iterable[str]) -> UserError:
    """The error for a name that is not among the valid ones."""
    return UserError(unknown_name(kind, given, valid))
