"""Text stores: what goes in comes out, padded and masked; what is damaged is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from datamodules import text_store
from datamodules.text_store import TextStore, cached_text_store, captions_sha256, write_text_store
from lightning_modules.text_encoders.ragged import RaggedText

T, E, P = 6, 8, 3
LENGTHS = [2, 6, 1, 4, 3]


def ragged(lengths: list[int], seed: int = 0, pooled: bool = True) -> RaggedText:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((sum(lengths), E)).astype(np.float16)
    return RaggedText(
        features, np.array(lengths), rng.standard_normal((len(lengths), P)).astype(np.float16) if pooled else None
    )


def make(folder: Path, *chunks: RaggedText) -> TextStore:
    write_text_store(folder, chunks, tokens=T, encoder="toy", captions="these")
    return TextStore(folder, verify=True)


def test_batches_are_the_captions_padded_with_masked_zeros(tmp_path: Path) -> None:
    chunks = [ragged(LENGTHS[:3], 1), ragged(LENGTHS[3:], 2)]
    store = make(tmp_path / "store", *chunks)
    whole = np.concatenate([chunk.features for chunk in chunks])
    ends = np.cumsum(LENGTHS)
    rows = [4, 0, 1, 4]
    features, mask, pooled = store.batch(rows)
    assert features.shape == (4, T, E) and mask.sum(1).tolist() == [LENGTHS[row] for row in rows]
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(features[i, : LENGTHS[row]], whole[ends[row] - LENGTHS[row] : ends[row]])
        assert not features[i, LENGTHS[row] :].any()
    np.testing.assert_array_equal(pooled, np.concatenate([chunk.pooled for chunk in chunks])[rows])


def test_only_real_tokens_are_stored_and_the_bytes_saved_are_named(tmp_path: Path) -> None:
    store = make(tmp_path / "store", ragged(LENGTHS))
    size = (store.folder / "features.bin").stat().st_size
    assert size == sum(LENGTHS) * E * 2
    assert size + store.meta.saved_bytes == len(LENGTHS) * T * E * 2
    assert json.loads((store.folder / "meta.json").read_text())["saved_bytes"] == store.meta.saved_bytes


def test_it_reads_without_this_project(tmp_path: Path) -> None:
    text = ragged(LENGTHS)
    folder = make(tmp_path / "store", text).folder
    f = np.memmap(folder / "features.bin", np.float16, "r").reshape(-1, E)
    o = np.load(folder / "offsets.npy", mmap_mode="r")
    np.testing.assert_array_equal(f[o[1] : o[2]], text.features[2:8])


def test_without_pooled_features(tmp_path: Path) -> None:
    assert make(tmp_path / "store", ragged(LENGTHS, pooled=False)).batch([0, 1]).pooled is None


def test_workers_get_a_small_copy(tmp_path: Path) -> None:
    store = make(tmp_path / "store", ragged(LENGTHS))
    expected = store.batch([1]).features
    content = pickle.dumps(store)
    assert len(content) < 2000
    np.testing.assert_array_equal(pickle.loads(content).batch([1]).features, expected)


@pytest.mark.parametrize("lengths", [[2, 0], [T + 1]])
def test_captions_without_or_with_too_many_tokens_are_refused(tmp_path: Path, lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="1 to 6 tokens"):
        make(tmp_path / "store", ragged(lengths))
    assert not list(tmp_path.iterdir())


def test_features_that_overflow_are_refused(tmp_path: Path) -> None:
    text = ragged(LENGTHS)
    text.features[3, 2] = np.inf
    with pytest.raises(ValueError, match=r"text_encoder\.dtype=bf16"):
        make(tmp_path / "store", text)


@pytest.mark.parametrize("name", ["features.bin", "offsets.npy", "pooled.npy", "meta.json"])
def test_damage_is_refused(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / "store", ragged(LENGTHS)).folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if name != "meta.json":
        with pytest.raises(ValueError, match="checksum .* delete the folder and encode again"):
            TextStore(tmp_path / "store", verify=True)
    path.write_bytes(content[:-9])
    with pytest.raises(ValueError, match="delete the folder and encode again"):
        TextStore(tmp_path / "store")


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No text store"):
        TextStore(tmp_path)
    (tmp_path / "meta.json").write_text('{"format": "ablate-token-store"}')
    with pytest.raises(ValueError, match="does not describe a text store"):
        TextStore(tmp_path)


class Counting:
    """Stands for an encoder; counts."""

    def __init__(self, features_id: str = "a"):
        self.config = SimpleNamespace(name="toy", features_id=features_id, text_tokens=T)
        self.encoded: list[str] = []
        self.released = 0

    def encode(self, captions: list[str]) -> RaggedText:
        self.encoded += captions
        return ragged([1 + len(caption) % T for caption in captions])

    def release(self) -> None:
        self.released += 1


def test_captions_are_encoded_once_per_encoder_and_list(tmp_path: Path) -> None:
    encoder = Counting()
    stores = [cached_text_store(["a", "bb"], encoder, tmp_path) for _ in range(2)]
    assert encoder.encoded == ["a", "bb"] and encoder.released == 1
    assert stores[0].folder == stores[1].folder
    assert cached_text_store(["bb", "a"], encoder, tmp_path).folder != stores[0].folder
    assert cached_text_store(["a", "bb"], Counting("b"), tmp_path).folder != stores[0].folder


def test_a_killed_encoding_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_store, "CHUNK", 2)
    captions = ["a", "bb", "ccc", "dddd", "e"]
    encoder = Counting()
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda chunk: 1 / 0 if "e" in chunk else encode(chunk))
    with pytest.raises(ZeroDivisionError):
        cached_text_store(captions, encoder, tmp_path)
    (parts,) = (tmp_path / "text").glob(".*.parts")
    (parts / "000000002.npz").write_bytes(b"damaged")
    again = Counting()
    store = cached_text_store(captions, again, tmp_path)
    assert again.encoded == ["ccc", "dddd", "e"] and not parts.exists()
    whole = cached_text_store(captions, Counting(), tmp_path / "other")
    for name in ("features.bin", "offsets.npy", "pooled.npy"):
        assert (store.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_what_will_not_fit_on_the_disk_is_refused_after_the_first_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T5-XXL's features of three million captions take some 500 GB: hours until the disk is full."""
    monkeypatch.setattr(text_store, "CHUNK", 2)
    captions, encoder, free = ["a", "bb", "ccc", "d", "ee", "fff", "g"], Counting(), [0]
    monkeypatch.setattr(text_store.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[0]))
    for _ in range(2):
        with pytest.raises(ValueError, match="twice that while they are made"):
            cached_text_store(captions, encoder, tmp_path)
        assert encoder.encoded == captions[:2], "the first chunk is kept"
    free[0] = 2 * 7 * T * E * 2
    assert len(cached_text_store(captions, encoder, tmp_path)) == 7 and encoder.encoded == captions


def test_the_checksum_of_captions_may_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = cached_text_store(["a", "bb"], Counting(), tmp_path)
    monkeypatch.setattr(text_store, "captions_sha256", lambda captions: pytest.fail("computed again"))
    assert cached_text_store(["a", "bb"], Counting(), tmp_path, store.meta.captions).folder == store.folder


def test_lists_of_captions_are_told_apart() -> None:
    lists = [["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""], ["c", "ab"]]
    assert len({captions_sha256(captions) for captions in lists}) == len(lists)
