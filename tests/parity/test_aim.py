"""AiM against the official code: logits, loss, every gradient, and the logits of decoding token by token."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F

from lightning_modules.generators.aim import AiM
from lightning_modules.published.aim import read_aim, translate
from tests.parity.fixtures import load

FIXTURE = load("aim_tiny.pt")
CASES = FIXTURE["cases"]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@cache
def _model(name: str) -> AiM:
    published = read_aim(CASES[name]["state_dict"])
    official = CASES[name]["config"]
    assert (published.config.width, published.config.depth) == (official["d_model"], official["n_layer"])
    assert published.config.adaln == ("per_layer" if not official["adaln_group"] else "group")
    model = AiM(published.config)
    model.load_state_dict(published.weights)
    return model.eval()


def _context(name: str, drop: bool = False):
    labels = CASES[name]["labels"]
    return _model(name).embed_condition(labels, torch.full(labels.shape, drop))


@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_KERNELS", backend)
    case, model = CASES[name], _model(name)
    model.zero_grad()
    logits = model(case["tokens"], _context(name))
    torch.testing.assert_close(logits, case["logits"], **TOLERANCE)
    loss = F.cross_entropy(logits.flatten(0, 1), case["tokens"].flatten())
    torch.testing.assert_close(loss, case["loss"], **TOLERANCE)
    loss.backward()
    # The same map that translates weights carries the official gradients over to this layout.
    expected = translate({key.removeprefix("backbone."): value for key, value in case["grads"].items()})
    assert expected.keys() == dict(model.named_parameters()).keys()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[key], rtol=1e-3, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.parametrize("name", CASES)
def test_stream_after_every_layer(name: str) -> None:
    case, model, seen = CASES[name], _model(name), []
    hooks = [layer.register_forward_hook(lambda _, __, output: seen.append(output)) for layer in model.layers]
    with torch.no_grad():
        model(case["tokens"], _context(name))
        modulation = model.adaln(case["state_dict"]["backbone.cls_embed.embedding_table.weight"][case["labels"]])
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(torch.stack(seen), case["hidden"] + case["residual"], **TOLERANCE)
    torch.testing.assert_close(modulation, case["modulation"].reshape(modulation.shape), **TOLERANCE)


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize(("key", "shift"), [("decode_fixed", 0), ("decode_official", 1)])
@pytest.mark.parametrize("name", CASES)
def test_decoding(name: str, key: str, shift: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_KERNELS", backend)
    case, model = CASES[name], _model(name)
    tokens = case["tokens"]
    logits = _decode(model, _context(name), tokens, shift)
    torch.testing.assert_close(logits, case[key], **TOLERANCE)
    if shift == 0:
        torch.testing.assert_close(logits, case["logits"], **TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_guided_logits(name: str) -> None:
    case, model = CASES[name], _model(name)
    conditional = _decode(model, _context(name), case["tokens"], shift=1)  # official positions, as in `decode_official`
    unconditional = _decode(model, _context(name, drop=True), case["tokens"], shift=1)
    torch.testing.assert_close(torch.lerp(unconditional, conditional, 2.0), case["decode_cfg2"], **TOLERANCE)


def _decode(model: AiM, context, tokens: torch.Tensor, shift: int) -> torch.Tensor:
    state, logits = model.start(context, tokens.shape[1], len(tokens))
    steps = [logits]
    for k in range(tokens.shape[1] - 1):
        steps.append(model.step(tokens[:, k], state, k + shift))
    return torch.stack(steps, dim=1)
