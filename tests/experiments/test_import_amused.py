"""`ablate import-checkpoint amused`: a pipeline as diffusers writes it becomes a run that samples like diffusers'."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.uvit_2d import UVit2DModel

from experiments.build import load_generator
from experiments.import_amused import import_amused
from experiments.model_facts import build_facts
from experiments.store import RunStore
from tests.text_encoders.tiny import save_clip_text, transformers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = save_clip_text(tmp_path_factory.mktemp("amused"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    ends = {"in_channels": 16, "block_out_channels": 16, "num_res_blocks": 1, "block_num_heads": 2}
    text = {"encoder_hidden_size": 32, "cond_embed_dim": 24, "micro_cond_encode_dim": 8, "micro_cond_embed_dim": 40}
    network = UVit2DModel(**sizes, **ends, **text, vocab_size=64, codebook_size=32, sample_size=4)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(path / "transformer")
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    VQModel(block_out_channels=(8, 8), **levels, num_vq_embeddings=32, norm_num_groups=4).save_pretrained(
        path / "vqvae"
    )
    return path


@torch.no_grad()
def test_an_imported_pipeline_gives_diffusers_logits(folder: Path, tmp_path: Path) -> None:
    result = import_amused(folder, "mmamba/uvit-paper", {"runtime.root": str(tmp_path)})
    run = RunStore(tmp_path).run(result.run_id)
    assert run.is_done()
    config = run.config()
    counted = build_facts(config)
    assert (run.result()["parameters"], run.result()["flops"]) == (counted.parameters, counted.flops)
    assert (run.folder / "overrides.txt").read_text().endswith(f"imported={config.imported}\n")
    model = load_generator(config, run, torch.device("cpu"))
    theirs = UVit2DModel.from_pretrained(folder / "transformer").eval()
    library = transformers()
    tokenizer = library.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = library.CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder").eval()
    ids = tokenizer([""], return_tensors="pt", padding="max_length", truncation=True, max_length=77).input_ids
    empty = encoder(ids, output_hidden_states=True)
    tokens = torch.randint(0, 32, (1, 16))
    micro = torch.tensor([[8.0, 8.0, 0.0, 0.0, 6.0]])
    expected = theirs(tokens.view(1, 4, 4), empty.hidden_states[-2], empty.text_embeds, micro)
    some = model.example_inputs()[1]
    dropped = model.embed_condition(_blank(model), torch.tensor([True]))
    assert dropped.text.shape == some.text.shape
    torch.testing.assert_close(model(tokens, dropped), expected.flatten(2).transpose(1, 2), rtol=1e-2, atol=1e-2)


def _blank(model: torch.nn.Module):
    from lightning_modules.conditions import TextFeatures

    c = model.config
    features = torch.zeros(1, c.text_tokens, c.text_width)
    return TextFeatures(features, torch.ones(features.shape[:2], dtype=torch.bool), torch.zeros(1, c.pooled_width))


def test_what_is_no_pipeline_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="as published"):
        import_amused(tmp_path, "mmamba/uvit-paper", {"runtime.root": str(tmp_path)})
