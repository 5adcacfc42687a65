"""Where float32 must be float32: what is set on a GPU, that it is put back, and the places that ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules import online
from datamodules.encoder import ImageEncoder
from datamodules.tokenize import encode
from lightning_modules.metrics import features
from lightning_modules.precision import exact_float32
from lightning_modules.tokenizers import vq

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


def _settings() -> tuple[str, bool, bool]:
    """PyTorch refuses to read the first where old and new settings were mixed."""
    products = torch.get_float32_matmul_precision()
    return products, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(params=[("highest", True), ("high", True), ("high", False), ("medium", True)], ids=str)
def before(request: pytest.FixtureRequest) -> Iterator[tuple[str, bool, bool]]:
    """Settings of a process; at the end those of the tests are back."""
    own = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _set(*request.param)
    yield _settings()
    _set(*own)


def _set(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


def test_a_gpu_computes_in_float32_inside_and_as_before_behind(before: tuple[str, bool, bool]) -> None:
    with exact_float32(GPU):
        assert _settings() == ("highest", False, False)
        with exact_float32(GPU):
            pass
        assert _settings() == ("highest", False, False)
    assert _settings() == before
    with pytest.raises(KeyError), exact_float32(GPU):
        raise KeyError
    assert _settings() == before


def test_a_cpu_is_left_alone(before: tuple[str, bool, bool]) -> None:
    with exact_float32(CPU):
        assert _settings() == before


class Asked:
    """Stands in for `exact_float32`: whether a computation lies inside, and for which device."""

    def __init__(self) -> None:
        self.devices: list[torch.device] = []
        self.inside = False
        self.computed = 0

    @contextmanager
    def __call__(self, device: torch.device) -> Iterator[None]:
        self.devices.append(device)
        self.inside = True
        yield
        self.inside = False

    def compute(self, result: Any) -> Any:
        """The result of something that must lie inside."""
        assert self.inside
        self.computed += 1
        return result


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    made = Asked()
    for module in (features, online, encode, vq):
        monkeypatch.setattr(module, "exact_float32", made)
    yield made
    assert made.devices == [CPU] and made.computed


def test_features_are_exact(asked: Asked) -> None:
    class Network:
        features_list = ("x",)

        def to(self, device: str) -> Network:
            return self

        def __call__(self, images: Tensor) -> tuple[Tensor]:
            return asked.compute((torch.ones(len(images), 2),))

    network: Any = Network()
    found = features.Extractor("toy", network, "", "")(np.zeros((3, 4, 4, 3), np.uint8), 2, "cpu")
    assert found["x"].shape == (3, 2)


def test_tokens_made_during_training_are_exact(asked: Asked) -> None:
    encoder = ImageEncoder(lambda images: asked.compute(torch.zeros(len(images), 4, dtype=torch.long)), "toy", 8)
    module: Any = SimpleNamespace(encoder=encoder)
    batch = {"image": torch.zeros(2, 4, 4, 3, dtype=torch.uint8)}
    assert online.OnlineDataModule.on_after_batch_transfer(module, batch, 0)["tokens"].shape == (2, 4)


def test_tokens_of_a_store_are_exact(asked: Asked) -> None:
    images: Any = [SimpleNamespace(views=np.zeros((1, 4, 4, 3), np.uint8))] * 3
    plan: Any = SimpleNamespace(codes_shape=(4,), latents=False, vocab_size=8, views=("whole",))
    made = encode._encode_batch(
        images, plan, lambda pixels: asked.compute(torch.zeros(len(pixels), 4, dtype=torch.long)), encode.Work()
    )
    assert made.shape == (3, 1, 4)


def test_the_nearest_code_is_searched_exactly(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    einsum = torch.einsum
    monkeypatch.setattr(torch, "einsum", lambda *inputs: asked.compute(einsum(*inputs)))
    assert vq.Quantizer(8, 4)(torch.randn(2, 4, 3, 3)).indices.shape == (2, 3, 3)
