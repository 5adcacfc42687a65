"""`bi_mamba` against the official Vision Mamba mixer: outputs and every gradient."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.layers.bi_mamba import BiMamba
from lightning_modules.layers.config import BiMambaConfig
from lightning_modules.layers.ssm import SelectiveSSM
from tests.parity.fixtures import load

FIXTURE = load("vim_mixer_tiny.pt")
CONFIG = FIXTURE["config"]
BACKENDS = ["reference", "torch", "auto"]


def _mixer(case: dict) -> BiMamba:
    config = BiMambaConfig(
        d_state=CONFIG["d_state"],
        d_conv=CONFIG["d_conv"],
        expand=CONFIG["expand"],
        weight_sharing=case["bimamba_type"],
        divide_out=case["if_divide_out"],
    )
    mixer = BiMamba(CONFIG["d_model"], config)
    mixer.ssm = SelectiveSSM(  # whose rank of dt is not that of this width
        CONFIG["d_model"] * CONFIG["expand"],
        CONFIG["d_state"],
        mixer.ssm.directions,
        model_width=16 * CONFIG["dt_rank"],
        share_projections=case["bimamba_type"] == "v1",
    )
    mixer.load_state_dict(mixer.from_vim(case["state_dict"]))
    return mixer


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FIXTURE["cases"])
def test_equal_to_official(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_KERNELS", backend)
    case = FIXTURE["cases"][name]
    mixer = _mixer(case)
    x = FIXTURE["input"].clone().requires_grad_()
    y = mixer(x)
    torch.testing.assert_close(y, case["output"], rtol=1e-4, atol=1e-6)
    (y * FIXTURE["loss_weight"]).sum().backward()
    torch.testing.assert_close(x.grad, case["grad_input"], rtol=1e-4, atol=1e-6)
    # The same map that loads weights carries the official gradients over to this layout.
    expected = _mixer({**case, "state_dict": case["grads"]})
    for (key, ours), theirs in zip(mixer.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.data, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_both_directions_matter() -> None:
    case = next(iter(FIXTURE["cases"].values()))
    mixer = _mixer(case)
    x = FIXTURE["input"].clone()
    moved = x.clone()
    moved[:, -1] += 1.0
    assert not torch.allclose(mixer(x)[:, 0], mixer(moved)[:, 0])
