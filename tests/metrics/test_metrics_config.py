"""The metric registry loads on a login node and is complete."""

import subprocess
import sys

from lightning_modules.metrics.config import METRICS


def test_imports_nothing_heavy():
    code = "import sys, lightning_modules.metrics.config; print([m for m in ('numpy', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_specs_can_be_shown():
    assert len({spec.label for spec in METRICS.values()}) == len(METRICS)
    for spec in METRICS.values():
        assert format(0.123, spec.format) and spec.description.endswith(".")
        assert spec.better in ("lower", "higher", "none")
