"""Stage 1: `ablate train tokenizer/...` trains an autoencoder whose weights then serve as a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.emoji.data import load_emoji
from experiments.advice import how_to_use
from experiments.config import load_config
from experiments.run import train
from experiments.run_config import RunConfig
from experiments.store import Run
from lightning_modules.tokenizers.config import TOKENIZERS, EmojiKLConfig
from lightning_modules.tokenizers.emoji_kl import EmojiKL, Posterior
from tests.experiments.configs import tiny_preset

TINY = {
    "tokenizer.channels": [8, 8, 8],
    "tokenizer.blocks": 1,
    "tokenizer.latent_width": 8,
    "tokenizer.groups": 4,
    "data.subset": 32,
    "data.styles": ["twemoji"],
    "optim.lr": 2e-3,
    "optim.warmup_steps": 0,
    "trainer.max_steps": 15,
    "trainer.batch_size": 8,
    "trainer.precision": "fp32",
    "trainer.ema_decay": 0.0,
    "runtime.val_every": 5,
    "runtime.log_every": 1,
    "runtime.checkpoint_every": 100,
    "runtime.device": "cpu",
    "runtime.threads": 1,
    "runtime.progress": "false",
}
IMAGES = torch.from_numpy(load_emoji(["twemoji"], "val").images)


def _trained(preset: str, root: Path, **changes: Any) -> tuple[RunConfig, Run, dict[str, Any]]:
    config = load_config(preset, {**TINY, "runtime.root": str(root), **changes})
    run = train(config)
    return config, run, json.loads((run.folder / "result.json").read_text())


@pytest.mark.parametrize("name", ["emoji", "emoji-kl"])
def test_reconstructions_get_better(name: str, tmp_path: Path) -> None:
    config, run, result = _trained(f"tokenizer/{name}", tmp_path)
    curve = [line["val/psnr"] for line in run.metrics() if "val/psnr" in line]
    assert len(curve) == 3 and curve[-1] > curve[0] + 0.2
    assert result["metrics"]["val/psnr"] == pytest.approx(curve[-1])
    assert run.id.startswith("emoji_kl-" if name == "emoji-kl" else "emoji_vq-")
    more = {"val/latent_std"} if name == "emoji-kl" else {"val/codebook_usage", "val/codebook_perplexity"}
    assert more <= result["metrics"].keys()
    assert how_to_use(config, run).endswith(f"tokenizer.weights={run.final_weights}")


def test_a_kl_run_becomes_the_tokenizer_of_latent_diffusion(tmp_path: Path) -> None:
    config, run, result = _trained("tokenizer/emoji-kl", tmp_path)
    shape = {key.partition(".")[2]: value for key, value in TINY.items() if key.startswith("tokenizer.")}
    tokenizer = TOKENIZERS.build(EmojiKLConfig(weights=str(run.final_weights), **shape)).eval()
    latents = tokenizer.encode_uint8(IMAGES)
    assert latents.shape == (len(IMAGES), 8, 8, 8) and latents.std().item() == pytest.approx(1, rel=0.3)
    assert torch.equal(tokenizer.encode_uint8(IMAGES), latents), "means, not draws: stores are made again bit by bit"
    assert tokenizer.scale.item() == pytest.approx(1 / result["metrics"]["val/latent_std"])
    error = ((tokenizer.decode_uint8(latents).double() - IMAGES.double()) / 255).square().mean()
    assert -10 * torch.log10(error).item() == pytest.approx(result["metrics"]["val/psnr"], abs=0.01)
    section = {"name": "emoji_kl", "downsample": 4, "weights": str(run.final_weights), **shape}
    diffusion = load_config(tiny_preset(tmp_path, "diffusion", tokenizer=section))
    assert diffusion.generator.latent_channels == 8 and diffusion.tokenizer.fingerprint
    assert train(diffusion).is_done()


def test_divergence_is_that_of_torch() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    ours = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(Posterior(mean, log_variance).divergence, expected)
    drawn = torch.stack([Posterior(mean, log_variance).draw() for _ in range(2000)])
    torch.testing.assert_close(drawn.std(0), (log_variance / 2).exp(), rtol=0.15, atol=0.02)


def test_a_kl_autoencoder_without_weights_says_how_to_get_some() -> None:
    with pytest.raises(ValueError, match="ablate train tokenizer/emoji-kl"):
        EmojiKL(EmojiKLConfig()).encode_uint8(IMAGES)
