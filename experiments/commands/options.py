"""Options of commands: which of them were typed."""

from __future__ import annotations

import click
from click.core import ParameterSource

from experiments.errors import UserError


def refuse_given(why: str, *names: str) -> None:
    """Raise UserError where one of these options was named on the command line, though it would change nothing.

    Args:
        why: what is said after its name, such as "needs --verify".
    """
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise UserError(f"{option.opts[0]} {why}.")
