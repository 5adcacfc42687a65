"""EmojiDataModule: batches, the token cache, and exact resumption inside a Lightning fit."""

import multiprocessing

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from datamodules.config import DATASETS
from datamodules.emoji.config import EmojiConfig
from datamodules.emoji.data import load_emoji
from datamodules.emoji.datamodule import EmojiDataModule
from datamodules.encoder import ImageEncoder

VOCAB = 64


def encode(images: torch.Tensor) -> torch.Tensor:
    """A stand-in tokenizer: 4x4 tokens, each the mean brightness of 8x8 pixels."""
    assert images.dtype == torch.uint8 and images.shape[1:] == (32, 32, 3)
    patches = images.float().unflatten(2, (4, 8)).unflatten(1, (4, 8)).sum((2, 4, 5))
    return (patches.long() * VOCAB // (8 * 8 * 3 * 256)).flatten(1)


ENCODER = ImageEncoder(encode, "toy", VOCAB)


def make(tmp_path, encoder=ENCODER, batch_size=32, workers=0, **config) -> EmojiDataModule:
    return EmojiDataModule(EmojiConfig(**config), batch_size, 0, workers, encoder, tmp_path / "cache")


def ready(*args, **kwargs) -> EmojiDataModule:
    module = make(*args, **kwargs)
    module.prepare_data()
    module.setup("fit")
    return module


def test_registry_builds_it(tmp_path):
    module = DATASETS.build(EmojiConfig(), 4, 0, 0, ENCODER, tmp_path)
    assert isinstance(module, EmojiDataModule)


@pytest.mark.parametrize("wrong", [{"styles": []}, {"styles": ["apple"]}, {"styles": ["noto"] * 2}, {"subset": -1}])
def test_wrong_configuration_is_refused(wrong):
    with pytest.raises(ValueError, match="data\\."):
        EmojiConfig(**wrong)


def test_resolve_fills_the_fingerprint():
    config = EmojiConfig()
    config.resolve()
    assert len(config.fingerprint) == 64


def test_token_batches_match_the_images(tmp_path):
    module = ready(tmp_path, condition="caption")
    data = load_emoji(split="train")
    tokens = encode(torch.from_numpy(data.images))
    rows = {(tuple(t.tolist()), label, text) for t, label, text in zip(tokens, data.labels, data.captions, strict=True)}
    batches = list(module.train_dataloader())
    assert len(batches) == len(data) // 32
    for batch in batches:
        assert batch["tokens"].shape == (32, 16) and batch["tokens"].dtype == batch["label"].dtype == torch.int64
        got = zip(batch["tokens"].tolist(), batch["label"].tolist(), batch["caption"], strict=True)
        assert all((tuple(t), label, text) in rows for t, label, text in got)


def test_validation_is_complete_and_in_order(tmp_path):
    module, data = ready(tmp_path, flip=True), load_emoji(split="val")
    for _ in range(2):
        batches = list(module.val_dataloader())
        assert "caption" not in batches[0]
        torch.testing.assert_close(torch.cat([b["tokens"] for b in batches]), encode(torch.from_numpy(data.images)))
        np.testing.assert_array_equal(torch.cat([b["label"] for b in batches]).numpy(), data.labels)


def test_flip_draws_orientations_anew_each_epoch(tmp_path):
    original = {tuple(t) for t in encode(torch.from_numpy(load_emoji(split="train").images)).tolist()}
    loader = ready(tmp_path, flip=True).train_dataloader()
    shares = []
    for _ in range(2):
        tokens = [t for batch in loader for t in batch["tokens"].tolist()]
        shares.append(np.mean([tuple(t) in original for t in tokens]))
        mirrored = [tuple(np.reshape(t, (4, 4))[:, ::-1].ravel().tolist()) for t in tokens]
        assert all(tuple(t) in original or m in original for t, m in zip(tokens, mirrored, strict=True))
    assert all(0.45 < share < 0.75 for share in shares) and shares[0] != shares[1]


def test_image_mode(tmp_path):
    module = ready(tmp_path, encoder=None, flip=True, styles=["noto"])
    batch = next(iter(module.train_dataloader()))
    assert batch["image"].shape == (32, 3, 32, 32) and batch["image"].dtype == torch.float32
    assert batch["image"].min() >= -1 and batch["image"].max() == 1
    known = {image.tobytes() for image in load_emoji(["noto"], "train").images}
    pixels = ((batch["image"] + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    plain = [image.tobytes() in known for image in pixels]
    mirrored = [np.ascontiguousarray(image[:, ::-1]).tobytes() in known for image in pixels]
    assert all(p or m for p, m in zip(plain, mirrored, strict=True)) and not all(plain)
    assert not (tmp_path / "cache").exists()


def test_subset(tmp_path):
    module = ready(tmp_path, subset=40, batch_size=20)
    loader = module.train_dataloader()
    epochs = [sorted(tuple(t) for batch in loader for t in batch["tokens"].tolist()) for _ in range(2)]
    assert len(epochs[0]) == 40 and epochs[0] == epochs[1]
    with pytest.raises(ValueError, match=r"data\.subset=99999"):
        ready(tmp_path, subset=99999)


def test_workers_change_nothing(tmp_path):
    batches = [list(ready(tmp_path, workers=workers).train_dataloader()) for workers in (0, 2)]
    for left, right in zip(*batches, strict=True):
        assert torch.equal(left["tokens"], right["tokens"]) and torch.equal(left["label"], right["label"])


def test_loading_leaves_the_global_random_stream_alone(tmp_path):
    module = ready(tmp_path)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    next(iter(module.train_dataloader()))
    next(iter(module.val_dataloader()))
    assert torch.equal(torch.rand(3), expected)


# --- the cache --------------------------------------------------------------------------------------------------------


def test_images_are_tokenized_once_per_tokenizer(tmp_path):
    calls = []

    def counting(images):
        calls.append(len(images))
        return encode(images)

    ready(tmp_path, encoder=ImageEncoder(counting, "one", VOCAB))
    assert sum(calls) == 3796
    ready(tmp_path, encoder=ImageEncoder(counting, "one", VOCAB), subset=64)
    assert sum(calls) == 3796
    ready(tmp_path, encoder=ImageEncoder(counting, "two", VOCAB))
    assert sum(calls) == 2 * 3796


def test_a_damaged_cache_is_refused(tmp_path):
    module = ready(tmp_path)
    path = module.store("train").folder / "tokens.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="delete the folder and tokenize again"):
        ready(tmp_path)


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="exceed the vocabulary"):
        ready(tmp_path, encoder=ImageEncoder(encode, "small", 8))
    with pytest.raises(ValueError, match=r"\(B, L\) was expected"):
        ready(tmp_path, encoder=ImageEncoder(lambda images: images[..., 0].long(), "grid", VOCAB))
    assert not list((tmp_path / "cache/tokens").glob("emoji*"))


def _tokenize(cache):
    torch.set_num_threads(1)  # the other OpenMP threads of the parent are not there after a fork
    ready(cache)


def test_two_processes_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_tokenize, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        if process.is_alive():
            process.kill()
            process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    folders = [path for path in (tmp_path / "cache/tokens").iterdir() if path.is_dir()]
    assert sorted(path.name.split("-")[1] for path in folders) == ["train", "val"]


# --- resumption in a real fit -----------------------------------------------------------------------------------------


class TinyModule(pl.LightningModule):
    """Predicts the label from the mean token embedding; records what it saw."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCAB, 8), nn.Linear(8, 9)
        self.seen: list[int] = []

    def training_step(self, batch, _):
        self.seen.append(hash((tuple(batch["tokens"].flatten().tolist()), tuple(batch["label"].tolist()))))
        return nn.functional.cross_entropy(self.head(self.embed(batch["tokens"]).mean(1)), batch["label"])

    def validation_step(self, batch, _):
        self.log(
            "val_loss", nn.functional.cross_entropy(self.head(self.embed(batch["tokens"]).mean(1)), batch["label"])
        )

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Killed(Exception):
    """Stands for a crash."""


class KillAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise Killed


def fit(tmp_path, workers: int, name: str, kill_at: int | None = None, resume: str | None = None, every: int = 3):
    torch.manual_seed(0)
    model = TinyModule()
    checkpoints = ModelCheckpoint(tmp_path / name, every_n_train_steps=every, save_top_k=-1, filename="{step}")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=17,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[checkpoints] + ([KillAt(kill_at)] if kill_at is not None else []),
        default_root_dir=tmp_path,
    )
    data = make(tmp_path, batch_size=32, workers=workers, subset=230, flip=True)  # 7 batches an epoch
    if kill_at is None:
        trainer.fit(model, data, ckpt_path=resume)
    else:
        with pytest.raises(Killed):
            trainer.fit(model, data, ckpt_path=resume)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "workers,killed,checkpoint,every",
    [
        (0, 5, 3, 3),  # first epoch, before any validation
        (0, 11, 9, 3),  # mid-epoch, later epoch
        (2, 11, 9, 3),
        (0, 15, 14, 7),  # checkpoint exactly at the end of an epoch
        (2, 8, 7, 7),
        (0, 9, 8, 4),  # checkpoint at a validation
    ],
)
def test_a_killed_fit_resumes_bit_for_bit(tmp_path, workers, killed, checkpoint, every):
    whole = fit(tmp_path, workers, "whole", every=every)
    assert len(whole.seen) == len(set(whole.seen)) == 17
    killed_model = fit(tmp_path, workers, "killed", kill_at=killed, every=every)
    assert killed_model.seen == whole.seen[:killed]
    resumed = fit(tmp_path, workers, "resumed", resume=str(tmp_path / f"killed/step={checkpoint}.ckpt"), every=every)
    assert resumed.seen == whole.seen[checkpoint:]
    for left, right in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)
