"""What the doctor says of a machine whose GPUs PyTorch cannot use."""

from __future__ import annotations

import pytest
import torch

from experiments import doctor

OLD = "The NVIDIA driver on your system is too old (found version 12080). Please update your GPU driver."


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (RuntimeError(OLD), "broken"),
        (RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU."), "optional"),
        (RuntimeError("No CUDA GPUs are available"), "optional"),
        (AssertionError("Torch not compiled with CUDA enabled"), "optional"),
    ],
)
def test_gpus_that_pytorch_cannot_use_are_no_missing_gpus(
    error: Exception, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init() -> None:
        raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    (found,) = (finding for finding in doctor._processors() if finding.part == "GPU")
    assert found.state == state
    assert ("too old (found version 12080)" in found.found) == (state == "broken") and "Please" not in found.found
