"""The command in this process, for all tests; and the order of their files."""

import os
from collections.abc import Callable

import pytest

from experiments.cli import main

Ablate = Callable[..., tuple[int, str, str]]

# Several tests share each core: a thread that waits for its team sleeps, instead of taking the core from the others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture
def ablate(capsys: pytest.CaptureFixture[str]) -> Ablate:
    """Run the command in this process: words -> exit code, standard output, standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        output = capsys.readouterr()
        return int(caught.value.code or 0), output.out, output.err

    return call


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests begin first: none is left running alone when the others are through."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
