"""Memory that was freed is used again instead of being mapped, and cleared, anew."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from experiments.allocator import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
for _ in range(12):  # until a hole has formed that an aligned block fits into
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(1 << 24)  # 64 MiB: 16384 pages of 4 KiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_large_blocks_are_reused():
    """Beyond 32 MiB glibc maps every block; whatever the size of a page, kept memory faults at most once."""
    faults = {}
    for mode in ("default", "keep"):
        run = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=False)
        if run.returncode == 3:
            pytest.skip("no glibc here")
        assert run.returncode == 0, run.stderr
        faults[mode] = int(run.stdout)
    assert faults["default"] > 4 * 32 > faults["keep"]
