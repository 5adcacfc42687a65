"""A finished run is sampled and measured with the files that it was made with, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from datamodules.store import write_store
from experiments.config import load_config, read_config, save_config, to_dict
from experiments.errors import UserError
from experiments.identity import run_id
from experiments.resolve import FILES, check_unchanged
from experiments.run_config import RunConfig
from experiments.store import RunStore
from lightning_modules.checkpoints import load_safetensors, save_safetensors
from lightning_modules.hashing import file_sha256
from lightning_modules.tokenizers.config import EMBEDDED, TOKENIZERS, EmojiVQConfig
from tests.experiments.configs import finished, tiny_preset
from tests.text_encoders.tiny import save_clip_text

QUICK = ("sampler.steps=1", "runtime.threads=1")
FEW = ("evaluation.num_samples=4", "evaluation.bootstrap=0")


def small(root: Path, **more: object) -> RunConfig:
    values = {"generator.width": 16, "generator.depth": 2, "generator.heads": 2, "runtime.root": str(root)}
    return load_config("maskmamba/demo", {**values, **{key.replace("__", "."): value for key, value in more.items()}})


def test_a_tokenizer_that_was_replaced_is_refused_by_name(ablate, tmp_path: Path) -> None:
    weights = Path(shutil.copy(EMBEDDED, tmp_path / "tokenizer.safetensors"))
    config = small(tmp_path, tokenizer__weights=str(weights))
    run, out = finished(config), tmp_path / "x.png"
    words = {
        "sample": ("--count", 2, "--out", out, *QUICK, "--root", tmp_path),
        "evaluate": (*QUICK, *FEW, "--root", tmp_path),
    }
    assert ablate("sample", run.id, *words["sample"])[0] == 0
    out.unlink()
    state = load_safetensors(weights, TOKENIZERS.build(EmojiVQConfig()).state_dict())
    save_safetensors(weights, {key: value + 1 for key, value in state.items()}, {})
    for command, rest in words.items():
        code, _, err = ablate(command, run.id, *rest)
        assert code == 2 and f"tokenizer.weights={weights} is not what {run.config_path} was made with" in err, err
        assert "tokenizer.fingerprint" in err
    code, _, err = ablate("execute", "--part", "evaluate", run.config_path)
    assert code == 2 and "is not what" in err
    assert not out.exists() and not run.evaluations()
    assert [found.id for found in RunStore(tmp_path).runs()] == [run.id], "no folder of another run was begun"


def test_data_that_are_gone_are_not_missed_where_they_have_no_part(ablate, tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    for split in ("train", "val"):
        codes = np.full((1000, 1, 64), len(split))
        made = {"vocab_size": 512, "tokenizer": file_sha256(EMBEDDED), "source": {"image_size": 32}}
        write_store(stores / split, codes, np.arange(1000), [""] * 1000, **made)
    run = finished(small(tmp_path, data__name="imagenet", data__root=str(stores)))
    sample = ("sample", run.id, "--class", 7, "--count", 2, "--out", tmp_path / "x.png", *QUICK, "--root", tmp_path)
    shutil.move(stores, tmp_path / "away")
    code, _, err = ablate(*sample)
    assert code == 0 and (tmp_path / "x.png").exists(), err
    code, _, err = ablate("evaluate", run.id, *QUICK, *FEW, "--root", tmp_path)
    assert code == 2 and f"data.root={stores}, which {run.id} was made with, is not there" in err
    away = (f"data.root={tmp_path / 'away'}", *QUICK, *FEW, "--root", tmp_path)
    code, _, err = ablate("evaluate", run.id, *away)
    assert code == 2 and "carry no real images" in err, "the data are found where they are now"
    shutil.move(tmp_path / "away", stores)
    meta = stores / "val" / "meta.json"
    meta.write_text(meta.read_text().replace('"count": 1000', '"count": 1005'))
    code, _, err = ablate(*sample)
    assert code == 2 and f"data.root={stores} is not what" in err


def test_a_run_is_used_from_any_folder(ablate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are kept in full, and are no part of the identity."""
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    shutil.copy(EMBEDDED, "mine.safetensors")
    config = small(tmp_path, tokenizer__weights="mine.safetensors")
    run = finished(config)
    monkeypatch.chdir(tmp_path)
    assert run.config().tokenizer.weights == str(tmp_path / "there" / "mine.safetensors")
    assert run_id(run.config()) == run.id == run_id(small(tmp_path, tokenizer__weights=str(EMBEDDED)))
    words = ("sample", run.id, "--count", 2, "--out", tmp_path / "x.png", *QUICK, "--root", tmp_path)
    code, _, err = ablate(*words)
    assert code == 0, err
    (tmp_path / "there").rename(tmp_path / "moved")
    code, _, err = ablate(*words)
    assert code == 2 and "is not there; put it back, or say where it is now with tokenizer.weights=PATH" in err
    code, _, err = ablate(*words, "tokenizer.weights=moved/mine.safetensors")
    assert code == 0, err


def test_a_text_encoder_that_was_moved_is_named_anew(ablate, tmp_path: Path) -> None:
    encoder = save_clip_text(tmp_path / "encoder")
    text = {"name": "clip", "model": str(encoder), "text_width": 32, "pooled_width": 24}
    captions = {"data": {"condition": "caption"}, "generator": {"condition": "text"}, "text_encoder": text}
    run = finished(load_config(tiny_preset(tmp_path, "captioned", **captions)))
    words = ("sample", run.folder, "--prompt", "a cow", "--count", 2, "--out", tmp_path / "x.png", *QUICK)
    encoder.rename(tmp_path / "moved")
    code, _, err = ablate(*words)
    assert code == 2 and f"text_encoder.model={encoder}, which {run.id} was made with, is not there" in err
    code, _, err = ablate(*words, f"text_encoder.model={tmp_path / 'moved'}")
    assert code == 0, err
    vocabulary = tmp_path / "moved" / "tokenizer" / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text() + " ")
    code, _, err = ablate(*words, f"text_encoder.model={tmp_path / 'moved'}")
    assert code == 2 and "is not what" in err


def test_published_ends_that_a_run_started_from_are_not_missed(tmp_path: Path) -> None:
    config = load_config("mmamba/uvit-demo")
    config.generator.pretrained_ends, config.generator.pretrained_fingerprint = "/gone", "a" * 64
    save_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config
    with pytest.raises(UserError, match="/gone"):
        read_config(tmp_path / "config.yaml", trains=True)


@pytest.mark.parametrize("key", FILES)
def test_every_fingerprint_of_a_training_is_compared(key: str, tmp_path: Path) -> None:
    config = load_config("mmamba/uvit-demo")
    config.trainer.init_from, config.generator.pretrained_ends = "start.safetensors", "amused-256"
    section, _, name = key.partition(".")
    stored = to_dict(config)
    stored[section][name] = "another"
    with pytest.raises(UserError, match=f"its {key} was another and is"):
        check_unchanged(stored, config, tmp_path)
    del stored[section][name]  # as of a run that is older than the key
    check_unchanged(stored, config, tmp_path)


def test_what_comes_with_the_suite_is_named_as_such(tmp_path: Path) -> None:
    run = RunStore(tmp_path).prepare(small(tmp_path))
    text = run.config_path.read_text()
    run.config_path.write_text(text.replace(run.config().data.fingerprint, "f" * 64))
    with pytest.raises(UserError, match="data.name=emoji, which comes with the suite, is not what"):
        read_config(run.config_path)
