"""Loaders of other packages read the same tokens, and shuffles are told apart."""

from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks.loader import batch_spread, loader
from experiments.benchmarks.loader_contenders import (
    LITDATA,
    SHARD,
    WEBDATASET,
    measure,
    write_litdata,
    write_store_of,
    write_webdataset,
)
from experiments.errors import UserError


def test_spread_of_batches_tells_an_exact_shuffle_from_a_local_one() -> None:
    order = np.random.default_rng(0).permutation(100_000)
    assert 0.97 < batch_spread(order[:12_800].reshape(50, 256), 100_000) < 1.03
    assert batch_spread(np.arange(12_800).reshape(50, 256), 100_000) < 0.02


@pytest.mark.parametrize("contender", [WEBDATASET, LITDATA])
def test_peers_read_the_same_tokens(contender: str, tmp_path: Path) -> None:
    """Every sample comes with its label, so the comparison is one of equal work."""
    pytest.importorskip(contender)
    tokens = np.random.default_rng(0).integers(0, 99, (2 * SHARD, 4), dtype=np.uint16)
    tokens[:, 0], tokens[:, 1] = np.arange(2 * SHARD) % 2**14, np.arange(2 * SHARD) // 2**14
    write_store_of(tmp_path / "store", tokens, 2**14)
    if contender == WEBDATASET:
        write_webdataset(tmp_path / "peer", tokens)
    else:
        write_litdata(tmp_path / "peer", tmp_path / "store", len(tokens))
        (tmp_path / "peer/width.json").write_text("6")
    found = measure(contender, str(tmp_path / "peer"), 32, 0, seconds=0)
    assert found["fits"] and np.array(found["labels"]).shape[1] == 32
    assert found["opening_batches"] == 1 + len(found["batch_s"]) == 100
    waited = found["first_batch_s"] + sum(found["batch_s"])
    assert 0.999 * waited < found["opening_s"] < 2 * waited


def test_too_few_samples_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.benchmarks.loader._write", lambda *_: pytest.fail("it was written"))
    with pytest.raises(UserError, match=r"samples=300 are fewer than two batches of 256.*choose samples=512 or more"):
        loader(samples=300, batch=256, scratch=str(tmp_path))
