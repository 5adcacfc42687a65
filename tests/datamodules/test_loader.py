"""Reading ahead in threads or processes: the same batches, errors where they belong, nothing left running."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
import torch

from datamodules.loader import ResumableLoader, sequential_loader
from datamodules.sampler import EpochSampler, SequentialSampler


class Numbers:
    """Batches of row numbers; slower for some, so that threads overtake each other."""

    in_processes = False
    views = 1

    def __init__(self, broken: int = -1):
        self.broken = broken

    def __len__(self) -> int:
        return 100

    def __getitem__(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        time.sleep(0.004 * (rows[0] % 3))
        if self.broken in rows:
            raise ValueError(f"row {self.broken} is damaged")
        return {"row": torch.from_numpy(rows)}


def loader(workers: int, broken: int = -1) -> ResumableLoader:
    return ResumableLoader(Numbers(broken), EpochSampler(100, 4, seed=1), workers)


class Decoded(Numbers):
    """As where images are decoded: read in processes."""

    in_processes = True

    def __getitem__(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        return {**super().__getitem__(rows), "process": torch.tensor(os.getpid())}


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.parametrize("workers", [1, 3])
def test_order_and_position_do_not_depend_on_threads(workers: int) -> None:
    plain, ahead = loader(0), loader(workers)
    assert len(ahead) == len(plain) == 25
    for epoch in range(2):
        for expected, found in zip(plain, ahead, strict=True):
            assert torch.equal(expected["row"], found["row"]) and ahead.state_dict() == plain.state_dict()
        assert ahead.state_dict()["epoch"] == epoch + 1
    in_order = sequential_loader(Numbers(), SequentialSampler(10, 4), workers)
    assert torch.cat([batch["row"] for batch in in_order]).tolist() == list(range(10))


def test_an_epoch_left_early_goes_on_where_it_was() -> None:
    plain, ahead = [batch["row"] for batch in loader(0)], loader(2)
    for expected, batch in zip(plain[:5], ahead, strict=False):
        assert torch.equal(expected, batch["row"])
    assert torch.equal(next(iter(ahead))["row"], plain[5])
    del ahead
    assert not threads()


def test_an_error_comes_with_its_batch() -> None:
    rows = [batch["row"].tolist() for batch in loader(0)]
    seen = []
    with pytest.raises(ValueError, match="row 50 is damaged"):
        for batch in loader(2, broken=50):
            seen.append(batch["row"].tolist())
    assert seen == rows[: next(i for i, batch in enumerate(rows) if 50 in batch)]


def test_processes_stay_and_give_the_same_batches_in_epochs_broken_off() -> None:
    plain, ahead = (ResumableLoader(Decoded(), EpochSampler(32, 4, seed=1), workers) for workers in (0, 2))
    rows, processes = [], set()
    for _ in range(6):  # three batches, three, the two that are left, and again
        for _, expected, found in zip(range(3), plain, ahead, strict=False):
            assert torch.equal(expected["row"], found["row"]) and ahead.state_dict() == plain.state_dict()
            rows.append(found["row"])
            processes.add(int(found["process"]))
    assert ahead.state_dict()["epoch"] == 2 and ahead.state_dict()["consumed"] == 0
    assert sorted(torch.cat(rows[:8]).tolist()) == sorted(torch.cat(rows[8:]).tolist()) == list(range(32))
    assert len(processes) == 2 and os.getpid() not in processes
