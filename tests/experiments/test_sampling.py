"""Batches are decoded in order; on a GPU, one behind the sampler on a stream of its own.

The streams here are stand-ins: a copy to the host holds its values once its event was waited for, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from experiments import sampling
from experiments.config import load_config
from experiments.sampling import decoded, sample_images, typical_seconds
from lightning_modules.samplers.noise import Noise

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BATCHES = 4


class Streams:
    """What `torch.cuda` offers for streams and events, and a diary of what was done with them."""

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.main = self.current = SimpleNamespace(name="main")
        self.copies: list[Callable[[], None]] = []

    def current_stream(self, device: torch.device) -> Any:
        return self.current

    def Stream(self, device: torch.device) -> Any:  # noqa: N802
        return SimpleNamespace(name="side", wait_stream=lambda other: self.diary.append(f"side waits for {other.name}"))

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.current = stream
        yield
        self.current = self.main

    def Event(self) -> Any:  # noqa: N802
        def synchronize() -> None:
            for copy in recorded:
                copy()

        recorded: list[Callable[[], None]] = []
        return SimpleNamespace(record=lambda stream: recorded.extend(self.copies), synchronize=synchronize)

    def codes(self, number: int) -> Any:
        def record_stream(stream: Any) -> None:
            self.diary.append(f"codes {number} kept for {stream.name}")

        self.diary.append(f"sample {number}")
        return SimpleNamespace(number=number, record_stream=record_stream)

    def decode(self, codes: Any) -> Any:
        def to(device: str, non_blocking: bool) -> torch.Tensor:
            assert device == "cpu" and non_blocking
            host = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
            self.copies = [lambda: host.fill_(codes.number)]
            return host

        self.diary.append(f"decode {codes.number} on {self.current.name}")
        return SimpleNamespace(to=to)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[Streams]:
    fake = Streams()
    for name in ("current_stream", "Stream", "stream", "Event"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    sampling._decoding_stream.cache_clear()
    yield fake
    sampling._decoding_stream.cache_clear()


def test_on_a_gpu_a_batch_is_decoded_while_the_next_one_is_sampled(streams: Streams) -> None:
    found = []
    for images in decoded(map(streams.codes, range(1, BATCHES + 1)), streams.decode, GPU):
        streams.diary.append(f"images {images.max()}")
        found.append(images)
    assert [int(images.max()) for images in found] == [int(images.min()) for images in found] == [1, 2, 3, 4]
    expected = []
    for i in range(1, BATCHES + 1):
        expected += [f"sample {i}", *([f"images {i - 1}"] if i > 1 else [])]
        expected += ["side waits for main", f"codes {i} kept for side", f"decode {i} on side"]
    assert streams.diary == [*expected, f"images {BATCHES}"]


def test_images_are_copied_out_of_the_buffer_that_the_device_writes_to(streams: Streams) -> None:
    (images,) = decoded(map(streams.codes, [7]), streams.decode, GPU)
    (write,) = streams.copies
    images[:] = 0
    write()
    assert not images.any()


def test_without_a_gpu_batches_follow_each_other() -> None:
    diary = []

    def draw(number: int) -> torch.Tensor:
        diary.append(f"sample {number}")
        return torch.tensor([number])

    def decode(codes: torch.Tensor) -> torch.Tensor:
        diary.append(f"decode {codes.item()}")
        return codes.to(torch.uint8)

    found = list(decoded(map(draw, range(2)), decode, CPU))
    assert np.array_equal(found, [[0], [1]])
    assert diary == ["sample 0", "decode 0", "sample 1", "decode 1"]


@pytest.mark.parametrize("part", ["codes", "decode"])
def test_an_exception_comes_out_as_it_is(part: str, streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    error, work = RuntimeError("device lost"), getattr(streams, part)

    def fail(given: Any) -> Any:
        if getattr(given, "number", given) == 2:
            raise error
        return work(given)

    monkeypatch.setattr(streams, part, fail)
    with pytest.raises(RuntimeError) as caught:
        list(decoded(map(streams.codes, range(BATCHES)), streams.decode, GPU))
    assert caught.value is error


class Nothing:
    """Conditions of two images."""

    def __len__(self) -> int:
        return 2

    def batch(self, indices: np.ndarray, device: torch.device) -> None: ...


def test_a_network_in_training_draws_without_dropout_and_trains_on(monkeypatch: pytest.MonkeyPatch) -> None:
    network, modes = torch.nn.Dropout(0.5), []

    def sampler(generator: torch.nn.Module, condition: None, noise: Noise) -> torch.Tensor:
        modes.append(generator.training)
        return torch.zeros(len(noise.keys), 1, 1, 3)

    monkeypatch.setattr(sampling.SAMPLERS, "build", lambda config: sampler)
    tokenizer = SimpleNamespace(decode_uint8=lambda codes: codes.byte())
    for training in (True, False):
        network.train(training)
        options: Any = {"conditions": Nothing(), "seed": 0, "batch_size": 1, "device": CPU}
        sample_images(load_config("maskmamba/demo"), network, tokenizer, **options)
        assert network.training == training
    assert modes == [False] * 4


def test_none_is_decoded_where_none_is_sampled(streams: Streams) -> None:
    assert not list(decoded([], streams.decode, GPU)) and not list(decoded([], streams.decode, CPU))


@pytest.mark.parametrize(
    "sizes", [[500, 500, 24], [400, 400, 224], [128, 128, 68], [64] * 16, [256] * 4, [300] * 5 + [7]]
)
def test_a_gpu_s_time_is_what_it_takes_also_where_a_last_batch_is_small(sizes: list[int]) -> None:
    sampled, decoded_in = [size * 1e-3 for size in sizes], [size * 1e-4 for size in sizes]
    # Images come when theirs are decoded, and then the batch after them has been sampled too.
    ends = [sum(sampled[: k + 2]) + (decoded_in[k] if k == len(sizes) - 1 else 0) for k in range(len(sizes))]
    spans = [end - begin for begin, end in zip([0.0, *ends], ends, strict=False)]
    assert typical_seconds(spans, sizes, overlapped=True) == pytest.approx(ends[-1], rel=0.05)


def test_one_slow_batch_counts_once() -> None:
    assert typical_seconds([9.0, 1.0, 1.0, 0.5], [10, 10, 10, 5], overlapped=False) == 3.5
