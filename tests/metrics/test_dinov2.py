"""DINOv2 from files in the published layout, of a small transformer with random weights."""

import numpy as np
import pytest
import torch

from lightning_modules.metrics.config import MetricsConfig
from lightning_modules.metrics.dinov2 import DINOv2, load_dinov2
from lightning_modules.metrics.evaluate import evaluate_images
from lightning_modules.metrics.reference import split_reference

WIDTH, DEPTH = 128, 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file like dinov2_vits14_pretrain.pth: its names, 16 x 16 position embeddings, 128 channels, two blocks."""
    torch.manual_seed(0)
    network = DINOv2(WIDTH, DEPTH, grid=16)
    state = {name: 0.2 * torch.randn_like(value) for name, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp("dinov2") / "dinov2_tiny.pth"
    torch.save(state, path)
    return path


def test_names_are_the_published_ones(weights):
    names = set(torch.load(weights, weights_only=True))
    block = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    expected = {f"blocks.{i}.{part}.{kind}" for i in range(DEPTH) for part in block for kind in ("weight", "bias")}
    expected |= {f"blocks.{i}.{scale}.gamma" for i in range(DEPTH) for scale in ("ls1", "ls2")}
    expected |= {"cls_token", "pos_embed", "mask_token", "norm.weight", "norm.bias"}
    assert names == expected | {"patch_embed.proj.weight", "patch_embed.proj.bias"}


def test_it_computes_what_transformers_does(weights):
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=2, image_size=224, patch_size=14
    )
    theirs = transformers.Dinov2Model(config).eval()
    wanted = theirs.state_dict()
    state = torch.load(weights, weights_only=True)
    renamed = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": state["pos_embed"],
        "embeddings.mask_token": state["mask_token"],
        **{f"embeddings.patch_embeddings.projection.{k}": state[f"patch_embed.proj.{k}"] for k in ("weight", "bias")},
        **{f"layernorm.{k}": state[f"norm.{k}"] for k in ("weight", "bias")},
    }
    for i in range(DEPTH):
        old, new = f"blocks.{i}", f"encoder.layer.{i}"
        for kind in ("weight", "bias"):
            parts = [*state[f"{old}.attn.qkv.{kind}"].chunk(3), state[f"{old}.attn.proj.{kind}"]]
            # transformers 4 and 5 call them differently
            for names, part in zip(("query q_proj", "key k_proj", "value v_proj", "dense o_proj"), parts, strict=True):
                inside = [k for k in wanted if k.startswith(f"{new}.attention.") and k.endswith(kind)]
                (name,) = (k for k in inside if k.split(".")[-2] in names.split())
                renamed[name] = part
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                renamed[f"{new}.{name}.{kind}"] = state[f"{old}.{name}.{kind}"]
        for number in ("1", "2"):
            renamed[f"{new}.layer_scale{number}.lambda1"] = state[f"{old}.ls{number}.gamma"]
    theirs.load_state_dict(renamed)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224)).astype(np.uint8))
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = theirs((pixels / 255 - mean) / deviation).last_hidden_state[:, 0]
        found = load_dinov2(weights)(pixels)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_positions_of_another_grid_are_interpolated():
    network = DINOv2(WIDTH, 1, grid=37)
    rows = torch.arange(37.0).repeat_interleave(37)[None, :, None].expand(1, -1, WIDTH)
    network.pos_embed.data = torch.cat([torch.full((1, 1, WIDTH), -5.0), rows], dim=1)
    found = network.positions(16)
    assert found.shape == (1, 257, WIDTH) and (found[:, 0] == -5).all()
    grid = found[0, 1:, 0].view(16, 16)
    assert torch.allclose(grid, grid[:, :1].expand(-1, 16), atol=1e-4)
    steps = grid[2:-2, 0].diff()  # away from the edges: nearly a straight line, of slope 37 / 16.1 and not 37 / 16
    assert torch.allclose(steps, torch.full_like(steps, 37 / 16.1), atol=0.1)
    assert steps.mean() == pytest.approx(37 / 16.1, abs=0.007)


def test_fd_dinov2_is_measured_where_weights_are_given(weights, tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    reference = split_reference("toy", images, np.zeros(12, int), [str(i) for i in range(12)], images, images)
    config = MetricsConfig(dinov2_weights=str(weights), kid_subsets=2, cache_dir="")
    metrics, protocol, replicates = evaluate_images(images[:4] // 2, np.zeros(4, int), reference, config)
    assert metrics["fd_dinov2"] > 0 and metrics["fd_dinov2_low"] < metrics["fd_dinov2_high"]
    assert protocol["dinov2"]["extractor"] == "dinov2-vit-128-14" and len(protocol["dinov2"]["extractor_sha256"]) == 64


def test_other_files_are_refused(tmp_path, weights):
    text, other, registers = (tmp_path / name for name in ("a.pth", "b.pth", "c.pth"))
    text.write_text("not weights")
    torch.save(torch.nn.Linear(2, 2).state_dict(), other)
    torch.save({**torch.load(weights, weights_only=True), "register_tokens": torch.zeros(1, 4, WIDTH)}, registers)
    for path, message in ((text, "not a file"), (other, "does not hold"), (registers, "another network")):
        with pytest.raises(ValueError, match=f"{path.name} .*{message}.*dinov2_vitl14"):
            load_dinov2(path)
    with pytest.raises(FileNotFoundError, match="leave evaluation.dinov2_weights empty"):
        load_dinov2(tmp_path / "absent.pth")
