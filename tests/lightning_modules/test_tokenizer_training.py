"""Stage 1: its losses, whom they train, and several processes: validation counts all images, the codebook stays one."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from experiments.run_config import RuntimeConfig
from experiments.trainer import _strategy
from lightning_modules.config import OptimConfig, ReconstructionConfig
from lightning_modules.images import rounded
from lightning_modules.tokenizer import KLModule, VQModule, _shift
from lightning_modules.tokenizers.config import EmojiKLConfig
from lightning_modules.tokenizers.emoji_kl import LOG_VARIANCE, EmojiKL
from lightning_modules.tokenizers.vq import Quantizer, VQAutoencoder


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> VQModule:
    """Rank 0 of two."""
    torch.manual_seed(0)
    network = VQAutoencoder([8, 8], 1, 8, codebook_size=6, code_width=4, groups=4)
    made = VQModule(ReconstructionConfig(), network, OptimConfig(), max_steps=1, ema_decay=0.0, seed=0)
    monkeypatch.setattr(VQModule, "trainer", SimpleNamespace(world_size=2))
    return made


def test_codes_that_another_process_used_are_left_alone(module: VQModule, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[Tensor, int]] = []
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: sent.append((tensor, src)))
    others = torch.tensor([0.0, 1, 1, 0, 0, 0])
    monkeypatch.setattr(module, "all_gather", lambda own: torch.stack([own, others]))
    module.used[0] = True
    before = module.model.quantize.embedding.weight.detach().clone()
    module._revive(torch.zeros(2, 3, 8, 8).uniform_(-1, 1))
    after = module.model.quantize.embedding.weight
    assert (before != after).any(1).tolist() == [False, False, False, True, True, True]
    assert not module.used.any()
    ((tensor, source),) = sent
    assert tensor is after and source == 0, "the other takes over what this one chose"


def test_codes_are_revived_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in every batch of an accumulated one, after the first of which all codes but its own count as unused."""
    objective = ReconstructionConfig(revive_every=1)
    network = VQAutoencoder([8, 8], 1, 8, codebook_size=6, code_width=4, groups=4)
    module = VQModule(objective, network, OptimConfig(), max_steps=4, ema_decay=0.0, seed=0)
    steps: list[int] = []
    monkeypatch.setattr(module, "_revive", lambda images: steps.append(module.global_step))
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = L.Trainer(max_steps=4, accumulate_grad_batches=3, accelerator="cpu", devices=1, **quiet)
    batches = torch.utils.data.DataLoader([{"image": torch.zeros(1, 3, 8, 8)}] * 12, batch_size=None)
    trainer.fit(module, batches)
    assert steps == [1, 2, 3]


@pytest.mark.parametrize(("every", "revived"), [(0, []), (1, [1, 2, 3, 4, 5, 6, 7, 8]), (3, [3, 6])])
def test_codes_settle_in_the_last_tenth_of_a_training(
    module: VQModule, monkeypatch: pytest.MonkeyPatch, every: int, revived: list[int]
) -> None:
    module.max_steps, module.objective.revive_every = 10, every
    steps: list[int] = []
    monkeypatch.setattr(module, "_revive", lambda images: steps.append(module.global_step))
    monkeypatch.setattr(VQModule, "global_rank", 0)
    for step in range(10):
        monkeypatch.setattr(VQModule, "global_step", step)
        module._batch_of_step = 0
        module.on_train_batch_start({"image": torch.zeros(1, 3, 8, 8)}, step)
    assert steps == revived


def test_every_process_counts_the_codes_that_it_used(module: VQModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of rank 0, which DDP would hand out before every forward pass; a checkpoint knows those of all."""
    strategy = _strategy(RuntimeConfig(devices=2))
    assert isinstance(strategy, DDPStrategy)
    assert strategy._ddp_kwargs in ({"forward_sync_buffers": False}, {"broadcast_buffers": False})
    monkeypatch.setattr(module, "all_gather", lambda own: torch.stack([own, torch.tensor([0.0, 1, 1, 0, 0, 0])]))
    module.used[0] = True
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["state_dict"]["used"].tolist() == [True, True, True, False, False, False]
    assert module.used.tolist() == [True] + [False] * 5
    module.load_state_dict(checkpoint["state_dict"])


def test_validation_counts_the_images_of_all_processes(module: VQModule, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, float] = {}
    monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.update(values))
    module.on_validation_epoch_start()
    module._error += torch.tensor([1.0, 100.0])
    module._counts[0] = 5
    others = iter([torch.tensor([99.0, 900.0], dtype=torch.float64), torch.tensor([0.0, 5, 0, 0, 0, 0])])
    monkeypatch.setattr(module, "all_gather", lambda own: torch.stack([own, next(others)]))
    module.on_validation_epoch_end()
    assert logged["val/psnr"] == pytest.approx(10) and logged["val/codebook_usage"] == pytest.approx(2 / 6)
    assert logged["val/codebook_perplexity"] == pytest.approx(2)


def test_the_loss_is_of_pixels_edges_codes_and_commitment(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weights = {"edge_weight": 3.0, "codebook_weight": 5.0, "commitment_weight": 0.5}
    network = VQAutoencoder([8, 8], 1, 8, codebook_size=6, code_width=4, groups=4)
    module = VQModule(
        ReconstructionConfig(shift=0, **weights), network, OptimConfig(), max_steps=1, ema_decay=0, seed=0
    )
    monkeypatch.setattr(module, "log_dict", lambda values, **_: None)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    error = network(images)[0] - images
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    z = F.normalize(network.latents(images), dim=1)
    codes = network.quantize.codes()[network.quantize(z).indices].permute(0, 3, 1, 2)
    distances = 5 * (codes - z.detach()).square().mean() + 0.5 * (z - codes.detach()).square().mean()
    expected = error.abs().mean() + 3 * (across.abs().mean() + down.abs().mean()) + distances
    loss = module.training_step({"image": images}, 0)
    torch.testing.assert_close(loss, expected)
    for part in (network.quantize.embedding, network.quant_conv):
        torch.testing.assert_close(*(torch.autograd.grad(x, part.weight, retain_graph=True) for x in (loss, expected)))


@pytest.fixture
def kl(monkeypatch: pytest.MonkeyPatch) -> KLModule:
    """Its average has other weights than what is trained."""
    torch.manual_seed(0)
    sizes = {"channels": [8, 8], "blocks": 1, "downsample": 2, "latent_width": 8, "latent_channels": 2, "groups": 4}
    network = EmojiKL(EmojiKLConfig(**sizes))
    objective = ReconstructionConfig(shift=0, edge_weight=0.0, kl_weight=0.5)
    made = KLModule(objective, network, OptimConfig(), max_steps=1, ema_decay=0.9, seed=0)
    torch.nn.init.normal_(network.quant_conv.weight)
    monkeypatch.setattr(made, "log", lambda *_, **__: None)
    monkeypatch.setattr(made, "log_dict", lambda values, **_: None)
    return made


def test_a_kl_autoencoder_reconstructs_drawn_latents_and_pays_for_their_divergence(kl: KLModule) -> None:
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    torch.manual_seed(1)
    loss = kl.training_step({"image": images}, 0)
    torch.manual_seed(1)
    posterior = kl.model.posterior(images)
    error = kl.model.decode(posterior.draw()) - images
    torch.testing.assert_close(loss, error.abs().mean() + 0.5 * posterior.divergence)


@torch.no_grad()
def test_validation_measures_the_means_of_the_average_whose_scale_all_weights_get(
    kl: KLModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: dict[str, float] = {}
    monkeypatch.setattr(kl, "log_dict", lambda values, **_: logged.update(values))
    monkeypatch.setattr(kl, "all_gather", lambda own: own)
    images = torch.rand(4, 3, 8, 8) * 2 - 1
    kl.on_validation_epoch_start()
    for part in images.split(3):
        kl.validation_step({"image": part}, 0)
    kl.on_validation_epoch_end()
    means = kl.sampling_model.posterior(images).mean
    assert logged["val/latent_std"] == pytest.approx(means.std(correction=0).item(), rel=1e-4)
    assert [n.scale.item() for n in (kl.model, kl.sampling_model)] == pytest.approx([1 / logged["val/latent_std"]] * 2)
    error = (rounded(kl.sampling_model.decode(means)).float() - rounded(images).float()) / 255
    assert logged["val/psnr"] == pytest.approx(-10 * error.square().mean().log10().item(), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("end", LOG_VARIANCE)
def test_the_variance_of_latents_has_bounds(kl: KLModule, end: float) -> None:
    kl.model.quant_conv.bias.fill_(1e4 * end)
    assert (kl.model.posterior(torch.zeros(1, 3, 8, 8)).log_variance == end).all()


def test_codes_follow_latents_and_latents_codes_and_the_decoder_reaches_the_encoder() -> None:
    torch.manual_seed(0)
    quantizer, z = Quantizer(6, 4), torch.randn(2, 4, 3, 3, requires_grad=True)
    trained = []
    for output in (quantizer(z).codebook_loss, quantizer(z).commitment_loss, quantizer(z).codes.square().sum()):
        quantizer.zero_grad()
        z.grad = None
        (output + 0 * z.sum() + 0 * quantizer.embedding.weight.sum()).backward()
        trained.append((bool(quantizer.embedding.weight.grad.any()), bool(z.grad.any())))
    assert trained == [(True, False), (False, True), (False, True)]
    torch.testing.assert_close(quantizer(z).codes, quantizer.codes()[quantizer(z).indices].permute(0, 3, 1, 2))


def test_images_are_moved_by_up_to_so_many_pixels_each_way() -> None:
    torch.manual_seed(0)
    places = torch.stack(torch.meshgrid(torch.arange(6), torch.arange(5), indexing="ij")).expand(200, -1, -1, -1)
    rows, columns = _shift(places, 2).unbind(1)
    assert not (rows - rows[:, :, :1]).any() and not (columns - columns[:, :1]).any()
    moves = set()
    for row, column in zip(rows[:, :, 0].tolist(), columns[:, 0].tolist(), strict=True):
        down, right = row[2] - 2, column[2] - 2
        assert row == [min(max(i + down, 0), 5) for i in range(6)]  # the edge repeated
        assert column == [min(max(i + right, 0), 4) for i in range(5)]
        moves.add((down, right))
    assert moves == set(product(range(-2, 3), repeat=2))
    assert _shift(places, 0) is places


@pytest.mark.parametrize("unit", [True, False])
def test_the_nearest_code_is_the_same_under_autocast(unit: bool) -> None:
    torch.manual_seed(0)
    quantizer, z = Quantizer(512, 8, unit), torch.randn(2, 8, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(z).indices
    assert torch.equal(found, quantizer(z).indices)
    assert quantizer.to("meta")(z.to("meta")).indices.shape == found.shape, "sizes are counted on no device"
