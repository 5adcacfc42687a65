"""Where a back end's code of an operation lies."""

import functools
import importlib
from types import ModuleType

_PACKAGES = {"cpp": "cpp", "torch": "pytorch", "triton": "triton"}


@functools.cache
def implementation(backend: str, module: str) -> ModuleType:
    """The back end's module of that name, imported when first used: triton's import takes a second, and not every
    machine has it."""
    return importlib.import_module(f"lightning_modules.kernels.{_PACKAGES[backend]}.{module}")
