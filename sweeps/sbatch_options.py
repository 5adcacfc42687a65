"""Options of sbatch that a site asks for beyond what the job scripts set themselves: `resources.sbatch`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NAME = re.compile(r"[a-z][a-z0-9-]*")
SET_BY = {
    **{name: f"resources.{name}" for name in ("partition", "account", "qos", "time", "constraint", "nodes")},
    **dict.fromkeys(("gres", "gpus", "gpus-per-node"), "resources.gpus and resources.gpu_type"),
    "mem": "resources.memory",
    "cpus-per-task": "resources.cpus",
    "signal": "resources.signal_seconds",
}
"""Option -> where it is set instead."""
OF_THE_SCRIPT = frozenset(
    "array comment dependency error job-name kill-on-invalid-dep no-requeue ntasks ntasks-per-node open-mode output "
    "parsable requeue test-only wait wrap".split()
)
"""Options that the launcher relies on."""


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that cannot be passed on."""
    for name, value in options.items():
        given = f"resources.sbatch: {name}"
        if not NAME.fullmatch(str(name)):
            raise ValueError(f"{given} is no long option of sbatch, such as reservation or mail-type.")
        if name in SET_BY:
            raise ValueError(f"{given} is set by {SET_BY[name]}.")
        if name in OF_THE_SCRIPT:
            raise ValueError(f"{given} is set by the job script itself; leave it out.")
        if isinstance(value, list | dict) or value is False or re.search(r'[\n\r"]', option_text(value)):
            raise ValueError(f"{given}={value} must be text of one line without double quotes, or null for none.")


def option_text(value: Any) -> str:
    """What stands behind the option's name; "" for one without a value (null, true)."""
    return "" if value is None or value is True else str(value)


def option_lines(options: Mapping[str, Any], gpus: bool = True) -> dict[str, str]:
    """Option -> its text.

    Args:
        gpus: whether the job has any; one without gets no option that speaks of them.
    """
    speaks = re.compile("gpu|gres|tres")
    return {name: option_text(value) for name, value in options.items() if gpus or not speaks.search(name)}
