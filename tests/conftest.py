"""Files with slow tests begin first: none is left running alone when the others are through."""

import os

import pytest

# Several tests share each core: a thread that waits for its team sleeps, instead of taking the core from the others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
