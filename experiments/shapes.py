"""What JSON files of the store must look like for the code that reads them: one that was changed by hand, or by another
program, is named instead of ending in a TypeError somewhere else."""

from __future__ import annotations

from typing import Any

ANY = "*"
NUMBER = (int, float)
TEXT = (str, type(None))
MAKER = {
    "git_commit": TEXT,
    "git_diff_sha256": TEXT,
    "precision": TEXT,
    "backends": {ANY: str},
    "hardware": {"cpu": TEXT, "gpus": [str]},
    "versions": {ANY: str},
    "first_step": int,
    "last_step": int,
}
ORIGIN = {**MAKER, "trained_by": [MAKER], "sampled_by": [MAKER]}
RESULT: dict[str, Any] = {
    "metrics": {ANY: NUMBER},
    "step": int,
    "max_steps": int,
    "device_seconds": NUMBER,
    "provenance": ORIGIN,
    "measured_again": MAKER,
    "protocol": {"sampler": {}, "floor": {ANY: NUMBER}},
    "replicates": {ANY: [NUMBER]},
    "not_finite": [str],
    "run_id": str,
    "eval_id": str,
    "chosen": {},
}
RESULT["trials"] = [RESULT]
NAMES = {dict: "an object", list: "a list", str: "text", type(None): "null", bool: "true or false"}


def misfit(value: Any, shape: Any, name: str = "it") -> str:
    """Which part of a JSON value is of another shape, in words such as "provenance.versions is null"; "" if none is.

    Args:
        shape: a type, or several; [shape] of a list's items; {key: shape} of what an object has under these keys, with
            `ANY` for all others.
        name: of the value.
    """
    if isinstance(shape, dict) and isinstance(value, dict):
        names = {key: key if name == "it" else f"{name}.{key}" for key in value}
        parts = [(item, shape.get(key, shape.get(ANY, object)), names[key]) for key, item in value.items()]
    elif isinstance(shape, list) and isinstance(value, list):
        parts = [(item, shape[0], f"{name}[{place}]") for place, item in enumerate(value)]
    elif not isinstance(shape, dict | list) and isinstance(value, shape):
        return ""
    else:
        return f"{name} is {NAMES.get(type(value), value)}"
    return next(filter(None, (misfit(*part) for part in parts)), "")
