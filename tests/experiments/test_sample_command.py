"""`ablate sample`: classes, inpainting, weights that are damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.errors import UserError
from experiments.run_config import RunConfig
from experiments.sample_grid import _known_tokens, _label
from experiments.store import RunStore
from tests.experiments.conftest import DRAWN, QUICK, TINY, only_run


def test_sample_is_deterministic_and_takes_a_class(ablate, trained: Path, tmp_path: Path) -> None:
    words = ["sample", only_run(trained), *DRAWN, "--root", trained, "--class", "flags", "--count", "3"]
    for name in ("a.png", "b.png"):
        assert ablate(*words, "--out", tmp_path / name)[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert ablate(*words, "--out", tmp_path / "c.png", "--seed", "1")[0] == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()
    words[words.index("flags")] = "cars"
    code, _, err = ablate(*words, "--out", tmp_path / "d.png")
    assert code == 2 and "cars" in err and "Flags" in err and not (tmp_path / "d.png").exists()


def test_a_wrong_class_names_a_few_that_there_are() -> None:
    names = tuple(f"n{i:08d}" for i in range(1000))
    assert _label("n00000007", names) == _label("7", names) == 7
    assert _label("cat", ("cat", "cattle")) == 0
    assert [_label(word, ("0", "1", "10", "2")) for word in ("10", "2", "3")] == [2, 3, 3], "a name before a number"
    with pytest.raises(UserError, match=r"fits 2 classes.* Classes: 0 red cat, 1 cattle\.$"):
        _label("cat", ("red cat", "cattle", "dog"))
    with pytest.raises(
        UserError, match=r"is none of the 1,000 classes\. .* 11 n00000011, \.\. 999 n00000999\.$"
    ) as error:
        _label("goldfish", names)
    assert len(str(error.value)) < 400


def test_inpainting_draws_the_box_alone(ablate, trained: Path, tmp_path: Path) -> None:
    from datamodules.emoji.data import load_emoji

    Image.fromarray(load_emoji(split="val").images[0]).save(tmp_path / "known.png")
    words = ["sample", only_run(trained), *DRAWN, "--root", trained, "--count", "2"]
    words += ["--known-from", tmp_path / "known.png"]
    pictures = []
    for i, box in enumerate(("0,0,8,8", "0,0,32,32")):
        assert ablate(*words, "--mask", box, "--out", tmp_path / f"{i}.png")[0] == 0
        pictures.append(np.asarray(Image.open(tmp_path / f"{i}.png")))
    far = pictures[0][64:128, 64:128].astype(int)  # four times enlarged: the lower right quarter, far from the box
    other = pictures[0][64:128, 64 + 136 : 128 + 136].astype(int)
    assert np.abs(far - other).mean() < 12  # both images keep it (the decoder carries a little across)
    assert np.abs(pictures[0].astype(int) - pictures[1].astype(int)).mean() > 12
    for box, said in (("1,2,3", "LEFT,TOP,RIGHT,BOTTOM"), ("0,0,64,64", "32 x 32")):
        code, _, err = ablate(*words, "--mask", box, "--out", tmp_path / "x.png")
        assert code == 2 and said in err


@pytest.mark.parametrize(("box", "rows", "columns"), [("3,8,9,12", {2}, {0, 1, 2}), ("0,0,1,32", set(range(8)), {0})])
def test_the_box_hides_every_token_that_it_touches(tmp_path: Path, box: str, rows: set[int], columns: set[int]) -> None:
    """Tokens of the embedded tokenizer stand for 4 x 4 pixels."""
    Image.new("RGB", (32, 32)).save(tmp_path / "known.png")
    tokenizer = SimpleNamespace(encode_uint8=lambda images: torch.zeros(1, 64, dtype=torch.int64))
    tokens = _known_tokens(RunConfig(), tokenizer, tmp_path / "known.png", box, torch.device("cpu"), mask_token=7)
    hidden = {(i // 8, i % 8) for i, token in enumerate(tokens.tolist()) if token == 7}
    assert hidden == {(row, column) for row in rows for column in columns}


def test_a_known_image_is_read_as_training_images_are(ablate, trained: Path, tmp_path: Path) -> None:
    """The middle square, upright, of 16 bits too: a box of one token leaves the rest of the picture to compare."""
    from datamodules.emoji.data import load_emoji

    face = Image.fromarray(load_emoji(split="val").images[0])
    face.save(tmp_path / "plain.png")
    grey = face.convert("L")
    grey.save(tmp_path / "grey.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    wide = Image.new("RGB", (64, 32), "white")
    wide.paste(face, (16, 0))
    wide.save(tmp_path / "wide.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    face.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=turned)
    words = ["sample", only_run(trained), *DRAWN, "--root", trained, "--count", "1", "--mask", "0,0,1,1"]
    for name, like in (("sixteen", "grey"), ("wide", "plain"), ("turned", "plain")):
        drawn = []
        for each in (name, like):
            out = tmp_path / f"{each}.out.png"
            assert ablate(*words, "--known-from", tmp_path / f"{each}.png", "--out", out)[0] == 0
            drawn.append(out.read_bytes())
        assert drawn[0] == drawn[1], name
    (tmp_path / "broken.png").write_bytes((tmp_path / "plain.png").read_bytes()[:200])
    code, _, err = ablate(*words, "--known-from", tmp_path / "broken.png", "--out", tmp_path / "x.png")
    assert code == 2 and "broken.png cannot be used: damaged image" in err and not (tmp_path / "x.png").exists()


def test_damaged_weights_are_one_sentence(ablate, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "runs" / only_run(tmp_path) / "checkpoints" / "final.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    code, _, err = ablate("evaluate", only_run(tmp_path), *QUICK, "sampler.guidance=4", "--root", tmp_path)
    assert code == 2 and str(weights) in err and "damaged" in err


def test_altered_weights_are_one_sentence(ablate, trained: Path, tmp_path: Path) -> None:
    """Eight bytes in the middle leave a file that can be read."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    run = RunStore(tmp_path).run(only_run(tmp_path))
    whole = run.final_weights.read_bytes()
    run.final_weights.write_bytes(whole[:-1000] + b"\xff" * 8 + whole[-992:])
    for words in (
        ("sample", run.id, "--out", tmp_path / "x.png"),
        ("evaluate", run.id, "sampler.guidance=4", QUICK[-1]),
    ):
        code, _, err = ablate(*words, *DRAWN, "--root", tmp_path)
        assert code == 2 and f"{run.final_weights} is damaged" in err and f"move {run.folder} away" in err
        assert "ablate train maskmamba/demo " in err and not (tmp_path / "x.png").exists()
    code, _, err = ablate("train", "maskmamba/demo", f"trainer.init_from={run.id}", "--root", tmp_path, *TINY[:6])
    assert code == 2 and f"{run.final_weights} is damaged" in err
    result = json.loads(run.result_path.read_text())
    del result["weights_crc32"]  # as of runs that were made before there were checksums
    run.result_path.write_text(json.dumps(result))
    run.final_weights.write_bytes(whole)
    code, _, err = ablate("sample", run.id, *DRAWN, "--root", tmp_path, "--count", "2", "--out", tmp_path / "x.png")
    assert code == 0 and (tmp_path / "x.png").exists(), err
