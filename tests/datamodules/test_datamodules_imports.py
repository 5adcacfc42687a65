"""Configurations load on a login node: no numpy, no torch."""

import subprocess
import sys


def test_config_imports_nothing_heavy():
    code = (
        "import sys, datamodules.config; print([m for m in ('numpy', 'torch', 'lightning', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
