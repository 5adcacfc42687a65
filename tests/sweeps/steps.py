"""Steps that tests of planning and of the launchers share."""

from __future__ import annotations

from sweeps import actions
from sweeps.planner import plan
from tests.sweeps.conftest import WORKER


def axis(name: str, key: str, *values: object, **more: object) -> dict:
    return {"name": name, "key": key, "values": list(values), **more}


WIDTH = axis("width", "generator.width", 32, 64)


def run(path: str, **options: object) -> int:
    return actions.run(path, worker=WORKER, **{"jobs": 2, **options})


def states(path: str, scale: str = "demo") -> dict[str, str]:
    return {name: state.describe() for name, state in plan(path, scale).states().items()}
