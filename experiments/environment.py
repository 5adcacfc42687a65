"""What the environment asks for. Torch-free."""

from __future__ import annotations

import os

from experiments.errors import UserError
from lightning_modules.backends import AUTO, ENVIRONMENT_VARIABLE, forced_backends


def environment_kernels() -> str:
    """The back ends that ABLATE_KERNELS forces, as it names them; "auto" where it leaves the choice to the suite.

    Raises:
        UserError: it names what does not exist.
    """
    value = os.environ.get(ENVIRONMENT_VARIABLE, "")
    try:
        return value if forced_backends(value, ENVIRONMENT_VARIABLE) else AUTO
    except ValueError as error:
        raise UserError(str(error)) from error
