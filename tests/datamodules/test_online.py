"""Image files tokenised during training: which crops, which order, what is refused, one run from end to end."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.config import DATASETS
from datamodules.encoder import ImageEncoder
from datamodules.online_config import FolderOnlineConfig, ImageNetOnlineConfig
from datamodules.sources.open import open_source
from datamodules.tokenize.crops import Crops, adm_crop
from datamodules.tokenize.images import applies_exif
from datamodules.tokenize.prepare import Preparation
from experiments.config import load_config
from experiments.identity import run_id
from experiments.run import train
from tests.datamodules.collections import SYNSETS, Toy, class_tree, picture

ENCODER = ImageEncoder(Toy().encode_uint8, "toy-weights", 64)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """40 training and 9 validation images in three classes; their token is their number."""
    folder = tmp_path_factory.mktemp("online")
    for split, numbers in (("train", range(1, 41)), ("val", range(41, 50))):
        class_tree(folder / split, numbers)
    return folder


def module(source, encoder=ENCODER, **settings):
    config = FolderOnlineConfig(source=str(source), image_size=16, **settings)
    config.resolve()
    data = DATASETS.build(config, 8, 0, 0, encoder)
    data.setup()
    return data


def batches(data, loader):
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def test_batches_carry_the_tokens_and_labels_of_their_images(images):
    data = module(images)
    for loader, numbers in ((data.train_dataloader(), range(1, 41)), (data.val_dataloader(), range(41, 50))):
        found = batches(data, loader)
        seen = torch.cat([batch["tokens"][:, 0] for batch in found]).tolist()
        assert sorted(seen) == list(numbers)
        assert torch.cat([batch["label"] for batch in found]).tolist() == [number % 3 for number in seen]


def gradient_picture(folder):
    """One class whose only image tells each place, and its mirror image, apart."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(64), np.arange(48)[:, None]
    for split in ("train", "val"):
        (folder / split / "a").mkdir(parents=True)
        for number in range(8):
            Image.fromarray(pixels).save(folder / split / "a" / f"{number}.png")
    return Image.fromarray(pixels)


def test_every_epoch_crops_anew_and_again_the_same(tmp_path):
    picture = gradient_picture(tmp_path)
    data = module(tmp_path, None, resize=48, flip=True)

    def epochs():
        loader = data.train_dataloader()
        return [next(iter(loader))["image"].numpy() for _ in range(6)]

    first = np.concatenate(epochs())
    assert (first == np.concatenate(epochs())).all()
    rows = first[:, 0, :, 0].astype(int)
    rising = rows[:, -1] > rows[:, 0]
    assert {True, False} == set(rising.tolist())  # mirrored ones among them
    lefts, tops = np.where(rising, rows[:, 0], rows[:, -1]), first[:, 0, 0, 1]
    assert len(set(lefts.tolist())) > 15 and len(set(tops.tolist())) > 15
    assert lefts.max() <= 64 - 16 and tops.max() <= 48 - 16
    steps = np.where(rising, 1, -1)[:, None]
    assert (rows == rows[:, :1] + steps * np.arange(16)).all()  # unscaled at the full short side
    centre = next(iter(data.val_dataloader()))["image"].numpy()
    assert (centre == np.asarray(adm_crop(picture, 16))).all()


@pytest.mark.parametrize("config", [FolderOnlineConfig, ImageNetOnlineConfig])
def test_exif_orientations_are_applied_as_in_stores(tmp_path, config):
    """The images a run sees are those of a store of the same folder, which ImageNet's are not turned for."""
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    image = Image.fromarray(np.arange(16, dtype=np.uint8)[:, None, None].repeat(16, 1).repeat(3, 2))
    for split in ("train", "val"):
        path = tmp_path / split / SYNSETS[0] / "1.png"
        path.parent.mkdir(parents=True)
        image.save(path, exif=upside_down)
    data = DATASETS.build(config(source=str(tmp_path), image_size=16), 1, 0, 0, None)
    data.setup()
    seen = next(iter(data.val_dataloader()))["image"][0].numpy()
    source = open_source(config.kind, tmp_path, "val")
    stored = Preparation(Crops(("adm",), size=16), applies_exif(config.kind), False)(next(source.read(0))).views[0]
    assert (seen == stored).all() and (seen[0, 0, 0] > seen[-1, 0, 0]) == (config is FolderOnlineConfig)


def test_without_flip_nothing_is_mirrored(tmp_path):
    gradient_picture(tmp_path)
    data = module(tmp_path, None, resize=48)
    loader = data.train_dataloader()
    rows = np.concatenate([next(iter(loader))["image"].numpy()[:, 0, :, 0].astype(int) for _ in range(6)])
    assert (rows[:, -1] > rows[:, 0]).all()


def test_what_has_no_files_with_classes_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    picture(1).save(tmp_path / "train" / "1.png")
    with pytest.raises(ValueError, match="None of the 1 images in .* has a class or a caption"):
        FolderOnlineConfig(source=str(tmp_path), image_size=16).resolve()
    (tmp_path / "train" / "1.txt").write_text("a caption is not a class")
    with pytest.raises(ValueError, match="ablate tokenize folder"):
        FolderOnlineConfig(source=str(tmp_path), image_size=16).resolve()


def test_too_small_a_side_and_a_damaged_file_are_one_sentence(images, tmp_path):
    with pytest.raises(ValueError, match="data.resize=8 must be at least the tokenizer's image size, 16"):
        FolderOnlineConfig(source=str(images), image_size=16, resize=8).resolve()
    shutil.copytree(images, tmp_path / "copy")
    victim = next((tmp_path / "copy" / "train").rglob("*.*"))
    victim.write_bytes(victim.read_bytes()[:20])
    with pytest.raises(ValueError, match=victim.name):
        list(module(tmp_path / "copy").train_dataloader())


def test_a_run_on_images(images, tmp_path):
    def config(source):
        return load_config(
            "aim/demo",
            {
                "data.name": "folder_online",
                "data.source": str(source),
                "generator.width": 64,
                "generator.depth": 2,
                "trainer.max_steps": 2,
                "trainer.batch_size": 4,
                "trainer.precision": "fp32",
                "runtime.root": str(tmp_path / "out"),
                "runtime.sample_every": 0,
                "runtime.device": "cpu",
            },
        )

    assert config(images).generator.num_classes == 3
    moved = tmp_path / "moved"
    shutil.copytree(images, moved)
    first = run_id(config(images))
    assert run_id(config(moved)) == first
    next((moved / "train").rglob("*.*")).rename(moved / "train" / "n01440764" / "renamed.png")
    result = train(config(images)).result()
    assert result["step"] == 2 and 0 < result["metrics"]["val/loss"] < 20


@pytest.mark.parametrize(("count", "stored"), [(3, 3), (1000, 0)])
def test_imagenet_has_the_classes_of_its_folders(tmp_path, count, stored):
    for split in ("train", "val"):
        for i in range(count):
            folder = tmp_path / split / f"n{i:08d}"
            folder.mkdir(parents=True)
            (folder / "1.png").touch()  # listed, not read
    config = ImageNetOnlineConfig()
    assert config.num_classes == 1000
    config = ImageNetOnlineConfig(source=str(tmp_path))
    config.resolve()
    assert (config.num_classes, len(config.class_names), len(config.classes)) == (count, count, stored)
