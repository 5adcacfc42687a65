"""`ablate import-checkpoint aim`: a small checkpoint in the published layout becomes a run that samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from experiments import imports
from experiments.config import load_config
from experiments.errors import UserError
from experiments.run import train
from experiments.store import RunStore
from lightning_modules.tokenizers.llamagen_vq import read_published

WIDTH, LAYERS, GROUPS, VOCABULARY, CLASSES, TOKENS = 32, 3, 2, 512, 9, 64
HEADS, STATES, INNER = 4, 8, 2 * WIDTH
SMALL_DATA = ["data.styles=[twemoji]", "data.flip=false", "runtime.threads=1"]
MIXER = {
    "mixer.dt_bias": (HEADS,),
    "mixer.A_log": (HEADS,),
    "mixer.D": (HEADS,),
    "mixer.in_proj.weight": (2 * INNER + 2 * STATES + HEADS, WIDTH),
    "mixer.conv1d.weight": (INNER + 2 * STATES, 1, 4),
    "mixer.conv1d.bias": (INNER + 2 * STATES,),
    "mixer.norm.weight": (INNER,),
    "mixer.out_proj.weight": (WIDTH, INNER),
    "norm.weight": (WIDTH,),
}


@pytest.fixture(autouse=True)
def own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a root of outputs of its own."""
    monkeypatch.setenv("ABLATE_ROOT", str(tmp_path / "out"))


def _published(groups: int = GROUPS) -> dict[str, torch.Tensor]:
    """Random weights under the published names; groups = 0: every layer its own modulation."""
    shapes = {
        "embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        "embeddings.position_embeddings.weight": (TOKENS + 1, WIDTH),
        "cls_embed.embedding_table.weight": (CLASSES + 1, WIDTH),
        "final_layer.norm_final.weight": (WIDTH,),
        "final_layer.adaLN_modulation.1.weight": (2 * WIDTH, WIDTH),
        "final_layer.adaLN_modulation.1.bias": (2 * WIDTH,),
        "norm_f.weight": (WIDTH,),
    }
    layer = dict(MIXER)
    if groups:
        shapes |= {"adaln_group.1.weight": (groups * 3 * WIDTH, WIDTH), "adaln_group.1.bias": (groups * 3 * WIDTH,)}
        layer["scale_shift_table"] = (1, 3, WIDTH)
    else:
        layer |= {"adaLN_modulation.1.weight": (3 * WIDTH, WIDTH), "adaLN_modulation.1.bias": (3 * WIDTH,)}
    for i in range(LAYERS):
        shapes |= {f"layers.{i}.{key}": shape for key, shape in layer.items()}
    generator = torch.Generator().manual_seed(0)
    state = {f"mamba.backbone.{key}": 0.2 * torch.randn(s, generator=generator) for key, s in shapes.items()}
    return {**state, "mamba.lm_head.weight": state["mamba.backbone.embeddings.word_embeddings.weight"].clone()}


def _import(ablate, file: Path, state: dict[str, torch.Tensor], *words: str) -> tuple[int, str, str]:
    save_file(state, file)
    return ablate("import-checkpoint", "aim", file, "--preset", "aim/demo", *SMALL_DATA, *words)


def test_imported_weights_sample_and_are_measured(ablate, tmp_path: Path) -> None:
    state = {**_published(), "mamba.backbone.leftover": torch.zeros(1)}
    code, out, err = _import(ablate, tmp_path / "model.safetensors", state)
    assert code == 0, err
    assert "1 not used: leftover." in out and "adaLN-single" not in out
    (run,) = RunStore(tmp_path / "out").runs()
    config = run.config().generator
    assert (config.width, config.depth, config.adaln, config.adaln_groups) == (WIDTH, LAYERS, "group", GROUPS)
    assert (config.mamba2.d_state, config.mamba2.head_width, config.tied_head) == (STATES, INNER // HEADS, True)
    weights = load_file(run.final_weights)
    assert torch.equal(weights["layers.2.norm.weight"], state["mamba.backbone.layers.2.norm.weight"])
    assert run.inspect().state == "done"

    code, _, err = ablate("sample", run.id, "--out", tmp_path / "grid.png", "--count", 2)
    assert code == 0, err
    assert np.asarray(Image.open(tmp_path / "grid.png")).std() > 0
    code, out, err = ablate("evaluate", run.id, "evaluation.num_samples=18")
    assert code == 0, err
    assert "FD-EffLite0" in out


def test_importing_again_finds_the_run(ablate, tmp_path: Path) -> None:
    first = _import(ablate, tmp_path / "a.safetensors", _published(0))
    (run,) = RunStore(tmp_path / "out").runs()
    written = run.final_weights.stat().st_mtime_ns
    assert _import(ablate, tmp_path / "b.safetensors", _published(0)) == first
    assert RunStore(tmp_path / "out").run(run.id).final_weights.stat().st_mtime_ns == written
    other = {**_published(0), "mamba.backbone.norm_f.weight": torch.ones(WIDTH)}
    _import(ablate, tmp_path / "c.safetensors", other)
    assert len(RunStore(tmp_path / "out").runs()) == 2


def test_equal_groups_are_told(ablate, tmp_path: Path) -> None:
    state = _published()
    key = "mamba.backbone.adaln_group.1.weight"
    state[key] = state[key][: 3 * WIDTH].repeat(GROUPS, 1)
    _, out, _ = _import(ablate, tmp_path / "model.safetensors", state)
    assert "Note: All 2 groups of the adaLN hold the same weights: really an adaLN-single model." in out


def test_a_torch_file_with_more_positions_and_a_head_of_its_own(ablate, tmp_path: Path) -> None:
    state = {key.removeprefix("mamba."): value for key, value in _published().items()}  # a bare generator
    state["backbone.embeddings.position_embeddings.weight"] = torch.randn(257, WIDTH)
    state["lm_head.weight"] = torch.randn(VOCABULARY, WIDTH)
    torch.save(state, tmp_path / "aim.bin")
    code, out, err = ablate("import-checkpoint", "aim", tmp_path / "aim.bin", "--preset", "aim/demo")
    assert code == 0, err
    assert "first 65 of 257 position rows" in out and "the head is not tied" in out
    (run,) = RunStore(tmp_path / "out").runs()
    assert torch.equal(load_file(run.final_weights)["head.weight"], state["lm_head.weight"])


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        ({"mamba.backbone.layers.1.norm.weight": None}, (), "1 missing (first: layers.1.norm.weight)"),
        ({"mamba.backbone.norm_f.weight": torch.ones(5)}, (), "1 of another shape (first: norm.weight)"),
        ({"mamba.backbone.cls_embed.embedding_table.weight": None}, (), "no 'cls_embed.embedding_table.weight'"),
        ({"mamba.backbone.embeddings.position_embeddings.weight": torch.ones(50, WIDTH)}, (), "50 position rows"),
        ({}, ("generator.depht=3",), "depht"),
    ],
)
def test_what_does_not_fit_is_one_sentence(ablate, tmp_path: Path, change, words, said: str) -> None:
    state = {key: value for key, value in {**_published(), **change}.items() if value is not None}
    code, _, err = _import(ablate, tmp_path / "model.safetensors", state, *words)
    assert code == 2 and said in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_files_of_another_kind_are_refused(ablate, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"nothing")
    (tmp_path / "passwd").write_text("root:x:0:0:root:/root:/bin/bash")
    (tmp_path / "notes").write_text("hello world")
    (tmp_path / "short").write_text("rb")
    for kind, file, said in [
        *(("aim", name, "damaged or not a torch file") for name in ("x.bin", "passwd", "notes", "short")),
        ("aim", "absent.bin", "not found"),
        ("llamagen-vq", "absent.pt", "not found"),
        ("dit", "x.bin", "dit"),
    ]:
        code, _, err = ablate("import-checkpoint", kind, tmp_path / file, "--preset", "aim/demo")
        assert code == 2 and said in err
    save_file(_published(), tmp_path / "model.safetensors")
    code, _, err = ablate("import-checkpoint", "llamagen-vq", tmp_path / "model.safetensors")
    assert code == 2 and "no LlamaGen tokenizer" in err


def test_imported_weights_are_never_trained_over(tmp_path: Path) -> None:
    config = load_config("aim/demo", {"imported": "0" * 64, "runtime.root": str(tmp_path)})
    with pytest.raises(UserError, match="imported, not trained"):
        train(config)


def _tokenizer(value: float, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Something with four resolutions; one number stands for the weights."""
    return {f"encoder.conv_blocks.{i}.weight": torch.full((3,), value, dtype=dtype) for i in range(4)}


def test_averaged_weights_of_a_tokenizer_s_training_are_preferred(
    ablate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "layout", lambda config: _tokenizer(0))
    file = tmp_path / "vq.pt"
    torch.save({"model": _tokenizer(1), "ema": _tokenizer(2), "steps": 3}, file)
    code, out, err = ablate("import-checkpoint", "llamagen-vq", file)
    assert code == 0 and "Note: These are the averaged weights ('ema')" in out, err
    (written,) = (tmp_path / "out" / "tokenizers").iterdir()
    assert load_file(written)["encoder.conv_blocks.0.weight"].unique() == 2
    assert read_published(file, _tokenizer(0))["encoder.conv_blocks.0.weight"].unique() == 2, "without an import too"
    torch.save({"model": _tokenizer(1)}, file)
    code, out, err = ablate("import-checkpoint", "llamagen-vq", file)
    assert code == 0 and "Note" not in out, err
    assert read_published(file, _tokenizer(0))["encoder.conv_blocks.0.weight"].unique() == 1


def test_a_tokenizer_may_be_in_half_precision(ablate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "layout", lambda config: _tokenizer(0))
    for value in (1.0, 2.0):
        torch.save(_tokenizer(value, torch.bfloat16), tmp_path / "vq.pt")
        code, _, err = ablate("import-checkpoint", "llamagen-vq", tmp_path / "vq.pt")
        assert code == 0, err
    assert len(list((tmp_path / "out" / "tokenizers").iterdir())) == 2, "the name tells the content"
