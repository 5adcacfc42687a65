"""What the documentation says about files works as printed, without this project."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from datamodules import text_store
from datamodules.store import TokenStore
from datamodules.text_store import write_text_store
from lightning_modules.text_encoders.ragged import RaggedText
from tests.datamodules.collections import coco, img2dataset, numbers_of, run, tar_shard

README = Path(__file__).parents[2] / "datamodules/README.md"


def printed(text: str, after: str) -> str:
    """The indented lines that follow some words."""
    block = re.search(r"\n\n((?: {4}.*\n)+)", text[text.index(after) :])
    assert block is not None
    return "".join(line.strip() + "\n" for line in block[1].splitlines())


def execute(lines: str, folder: Path, result: str) -> object:
    """Run lines in a fresh interpreter that knows numpy only, and give one value back."""
    code = f"import json, numpy as np\n{lines}\nprint(json.dumps({result}))"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_a_store_in_three_lines_of_numpy(tmp_path: Path) -> None:
    lines = printed(README.read_text(), "three lines of numpy")
    assert lines.count("\n") == 3
    tar_shard(tmp_path / "tars/0.tar", [member for number in (3, 5) for member in img2dataset(number)])
    run("cc3m", tmp_path / "tars", tmp_path / "out")
    store = TokenStore(tmp_path / "out/train")
    for i, number in enumerate(numbers_of(store.codes)):
        found = execute(f"i = {i}\n{lines}", store.folder, "[tokens.tolist(), int(label), caption]")
        assert found == [[number] * 4, 0, f"picture {number}"]


def test_several_captions_as_described(tmp_path: Path) -> None:
    lines = printed(README.read_text(), "three lines of numpy")
    run("coco", coco(tmp_path / "coco", range(1, 4), captions=2), tmp_path / "out", "val")
    store = TokenStore(tmp_path / "out/val")
    first = 'index = np.load("caption_index.npy"); i = int(index[2]) + 1\n' + lines.splitlines()[2]
    assert "numbers `index[i]` to `index[i + 1] - 1`" in README.read_text()
    assert execute(first, store.folder, "caption") == store.caption(2, 1)


def test_features_of_captions_as_described(tmp_path: Path) -> None:
    features, lengths = np.arange(12, dtype=np.float16).reshape(6, 2), np.array([1, 3, 2])
    chunk = RaggedText(features, lengths)
    write_text_store(tmp_path / "text", [chunk], tokens=4, encoder="x", captions="y")
    lines = printed(str(text_store.__doc__), "Readable without this project")
    assert execute(f"E, i = 2, 1\n{lines}", tmp_path / "text", "caption_i.tolist()") == features[1:4].tolist()
