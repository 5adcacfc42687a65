"""The token store: round trip, the documented three lines, atomic writing, refusal of everything broken."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from datamodules import store as store_module
from datamodules import store_writer
from datamodules.store import TokenStore, write_store
from datamodules.store_format import FILES

CAPTIONS = ["grinning face", "", "Åland 🇦🇽 flag", "two\nlines", "x" * 3000]


def make(folder: Path, views: int = 2, **changes):
    generator = np.random.default_rng(0)
    arguments = {
        "tokens": generator.integers(0, 500, (5, views, 7)),
        "labels": np.arange(5),
        "captions": CAPTIONS,
        "vocab_size": 500,
        "tokenizer": "abc",
        "source": {"dataset": "toy"},
    } | changes
    write_store(folder, **arguments)
    return arguments


def test_round_trip(tmp_path):
    written = make(tmp_path / "store")
    store = TokenStore(tmp_path / "store", verify=True)
    assert len(store) == 5 and store.meta.vocab_size == 500 and store.meta.source == {"dataset": "toy"}
    assert store.codes.dtype == np.uint16 and isinstance(store.codes, np.memmap)
    np.testing.assert_array_equal(store.codes, written["tokens"])
    np.testing.assert_array_equal(store.labels, written["labels"])
    assert [store.caption(i) for i in range(5)] == CAPTIONS
    assert [path.name for path in tmp_path.iterdir()] == ["store"]  # no temporary folder left


def test_captions_are_read_when_they_are_asked_for(tmp_path, monkeypatch):
    make(tmp_path / "store")
    captions = TokenStore(tmp_path / "store").captions()
    assert not isinstance(captions, list) and len(captions) == 5
    assert list(captions) == captions[:] == CAPTIONS and captions[-1] == CAPTIONS[-1]
    assert captions[1:3] == CAPTIONS[1:3] and captions[::2] == CAPTIONS[::2] and captions[9:] == []
    monkeypatch.setattr(store_module.Captions, "BLOCK", 2)
    assert list(captions) == CAPTIONS
    with pytest.raises(IndexError):
        captions[5]


def test_readable_without_the_project(tmp_path, monkeypatch):
    """The three lines in the module's documentation, run as they stand there."""
    written = make(tmp_path / "store")
    monkeypatch.chdir(tmp_path / "store")
    lines = [line.strip() for line in store_module.__doc__.splitlines() if "np.load(" in line]
    assert len(lines) == 3
    for i in range(5):
        names = {"np": np, "i": i}
        exec("\n".join(lines), names)
        np.testing.assert_array_equal(names["tokens"], written["tokens"][i, 0])
        assert names["label"] == i and names["caption"] == CAPTIONS[i]


def test_the_description_tells_contents_apart(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b")
    make(tmp_path / "c", labels=np.arange(5)[::-1])
    a, b, c = ((tmp_path / name / "meta.json").read_bytes() for name in "abc")
    assert a == b != c


def test_worker_processes_map_the_files_themselves(tmp_path):
    make(tmp_path / "store")
    store = TokenStore(tmp_path / "store")
    tokens, caption = store.codes[3].copy(), store.caption(2)
    sent = pickle.dumps(store)
    assert len(sent) < 2000
    received = pickle.loads(sent)
    np.testing.assert_array_equal(received.codes[3], tokens)
    assert received.caption(2) == caption


def test_no_captions_at_all(tmp_path):
    make(tmp_path / "store", captions=[""] * 5)
    assert TokenStore(tmp_path / "store", verify=True).caption(4) == ""


@pytest.mark.parametrize("name", FILES)
def test_truncated_missing_and_altered_files_are_refused(tmp_path, name):
    make(tmp_path / "store")
    path = tmp_path / "store" / name
    content = path.read_bytes()

    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=rf"damaged: {name} has \d+ bytes"):
        TokenStore(tmp_path / "store")
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"checksum of {name}"):
        TokenStore(tmp_path / "store", verify=True)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        TokenStore(tmp_path / "store")


def test_foreign_and_broken_meta_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No token store"):
        TokenStore(tmp_path)
    make(tmp_path / "store")
    meta = tmp_path / "store/meta.json"
    content = json.loads(meta.read_text())
    for text, message in [
        ("{", "meta.json is not valid"),
        ("[1]", "meta.json is not valid"),
        (json.dumps({"format": "other"}), "does not describe a token store"),
        (json.dumps(content | {"version": 99}), "format version 99"),
        (json.dumps({k: v for k, v in content.items() if k != "files"}), "meta.json is not valid"),
        (json.dumps(content | {"surprise": 1}), "meta.json is not valid"),
        (json.dumps(content | {"length": 6}), "shape"),
    ]:
        meta.write_text(text)
        with pytest.raises(ValueError, match=message):
            TokenStore(tmp_path / "store")


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.arange(4)},
        {"captions": CAPTIONS[:4]},
        {"tokens": np.zeros((5, 7), int)},
        {"tokens": np.full((5, 1, 7), 500)},
        {"tokens": np.full((5, 1, 7), -1)},
        {"vocab_size": 70000},
    ],
)
def test_arrays_that_do_not_fit_are_not_written(tmp_path, changes):
    with pytest.raises(ValueError):
        make(tmp_path / "store", **changes)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "sha256_of", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make(tmp_path / "store")
    assert not list(tmp_path.iterdir())


def test_the_first_writer_wins(tmp_path):
    make(tmp_path / "store")
    before = (tmp_path / "store/meta.json").read_bytes()
    make(tmp_path / "store", labels=np.zeros(5, int))
    assert (tmp_path / "store/meta.json").read_bytes() == before and TokenStore(tmp_path / "store", verify=True)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
