"""imagenet, cc3m, coco and folder out of stores: views, captions, text features, splits, subset, what does not fit."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.config import DATASETS
from datamodules.datasets import CAPTION_DRAWS, TokenDataset
from datamodules.encoder import ImageEncoder
from datamodules.store import TokenStore, write_store
from datamodules.store_config import CC3MConfig, CocoConfig, FolderConfig, ImageNetConfig
from datamodules.stores import StoreDataModule
from lightning_modules.text_encoders.ragged import RaggedText
from tests.datamodules.collections import (
    SYNSETS,
    Toy,
    ToyConfig,
    ToyLatents,
    caption,
    class_tree,
    coco,
    encoded,
    picture,
    run,
)

ENCODER = ImageEncoder(Toy().encode_uint8, "toy-weights", 64)


class ToyText:
    """One to three features a caption, all equal to the number in it."""

    class config:  # noqa: N801 (stands for a configuration object)
        name, features_id, text_tokens = "toy", "toy-text", 3

    calls = 0

    def encode(self, captions):
        self.calls += len(captions)
        numbers = np.array([int(text.split()[1]) for text in captions], np.float16)
        lengths = np.array([1 + len(text) % 3 for text in captions])
        return RaggedText(np.repeat(numbers, lengths)[:, None], lengths)

    def release(self):
        pass


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Stores of 40 training images with a mirrored view, and of 9 validation images."""
    folder = tmp_path_factory.mktemp("classes")
    for split, numbers in (("train", range(1, 41)), ("val", range(41, 50))):
        class_tree(folder / "images" / split, numbers)
        run("folder", folder / "images", folder / "stores", split, crops=("centre", "random_2"), flip=split == "train")
    return folder / "stores"


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """COCO stores: 12 images of 5 captions, the same for training and validation."""
    folder = tmp_path_factory.mktemp("captions")
    source = coco(folder / "coco", range(1, 13))
    run("coco", source, folder / "stores", "val")
    (source / "val2014").rename(source / "train2014")
    annotations = source / "annotations"
    (annotations / "captions_val2014.json").rename(annotations / "captions_train2014.json")
    run("coco", source, folder / "stores", "train")
    return folder / "stores"


def module(config, batch_size=8, **options):
    data = DATASETS.build(config, batch_size, 0, 0, options.pop("encoder", ENCODER), *options.values())
    data.prepare_data()
    data.setup()
    return data


def resolved(config):
    config.resolve()
    return config


def test_batches_of_classes(classes):
    config = resolved(FolderConfig(root=str(classes)))
    assert config.num_classes == 3 and config.class_names == ("n01440764", "n01443537", "n02084071")
    data = module(config)
    assert isinstance(data, StoreDataModule)
    for loader, numbers in (
        (data.train_dataloader(), range(1, 41)),
        (data.val_dataloader(), range(41, 50)),
    ):
        batches = list(loader)
        seen = torch.cat([batch["tokens"][:, 0] for batch in batches]).tolist()
        assert sorted(seen) == list(numbers)
        assert torch.cat([batch["label"] for batch in batches]).tolist() == [number % 3 for number in seen]
        assert "caption" not in batches[0]


def test_a_store_of_test_images_concerns_no_run(classes, tmp_path):
    root = shutil.copytree(classes, tmp_path / "stores")
    codes = np.zeros((3, 1, 4), int)
    write_store(root / "test", codes, np.arange(3), [""] * 3, vocab_size=8, tokenizer="other", source={})
    assert set(module(resolved(FolderConfig(root=str(root)))).stores) == {"train", "val"}
    FolderConfig(root=str(root)).check_tokenizer(ToyConfig())


def test_views_are_chosen_by_name(classes):
    store = TokenStore(classes / "train")
    names = store.meta.source["views"]
    assert names == ["centre", "centre mirrored", "random 0", "random 1", "random 0 mirrored", "random 1 mirrored"]
    data = module(FolderConfig(root=str(classes), views=["random 1", "centre"]))
    dataset = data._datasets["train"]
    assert dataset.views == 2 and dataset.stored_views.tolist() == [3, 0]
    assert data._datasets["val"].views == 3  # validation takes the first
    with pytest.raises(ValueError, match=r"data\.views: .* has no view 'middle'; it has 'centre'"):
        module(FolderConfig(root=str(classes), views=["middle"]))


def test_one_of_several_captions_is_drawn_each_epoch(captions):
    text = ToyText()
    data = module(CocoConfig(root=str(captions)), batch_size=4, cache="unused", text=text)
    assert text.calls == 2 * 12 * 5 / 2 and (captions / "text").is_dir()  # equal captions in both splits: encoded once
    loader, which = data.train_dataloader(), []
    assert data._datasets["train"].views == CAPTION_DRAWS
    for _ in range(50):
        for batch in loader:
            for tokens, text_of, features, mask in zip(
                batch["tokens"], batch["caption"], *batch["text"][:2], strict=True
            ):
                number = int(tokens[0])
                assert text_of.startswith(f"{caption(number)} no ") and int(mask.sum()) == 1 + len(text_of) % 3
                assert (features[mask] == number).all() and (features[~mask] == 0).all()
                which.append(int(text_of[-1]))
    counts = np.bincount(which, minlength=5)
    assert counts.sum() == 600 and counts.min() > 85
    first = [text for batch in data.val_dataloader() for text in batch["caption"]]
    assert all(text.endswith("no 0") for text in first)


def test_captions_are_drawn_by_weight(captions):
    """Dimba trains on long and raw captions as 9 to 1; validation goes on with the first."""
    config = CocoConfig(root=str(captions), caption_weights=[6, 1, 1, 1, 1])
    data = module(config, batch_size=4)
    loader = data.train_dataloader()
    which = [int(text[-1]) for _ in range(60) for batch in loader for text in batch["caption"]]
    counts = np.bincount(which, minlength=5) / len(which)
    np.testing.assert_allclose(counts, [0.6, 0.1, 0.1, 0.1, 0.1], atol=0.05)
    assert all(text.endswith("no 0") for batch in data.val_dataloader() for text in batch["caption"])
    with pytest.raises(
        ValueError, match=r"caption_weights=\[0.9, 0.1\] must be as many numbers .* captions, 5; or leave"
    ):
        module(CocoConfig(root=str(captions), caption_weights=[0.9, 0.1]))
    with pytest.raises(ValueError, match="must be numbers above 0, of data.condition=caption"):
        FolderConfig(caption_weights=[0.9, 0.1])


def test_an_image_with_fewer_captions_goes_by_the_first_weights(captions):
    dataset = TokenDataset(TokenStore(captions / "train"), captions=True, caption_weights=[6, 3, 1, 1, 1])
    draws = range(CAPTION_DRAWS)
    assert np.bincount([dataset._which(draw, 2) for draw in draws]).tolist() == [280, 140]
    assert np.bincount([dataset._which(draw, 5) for draw in draws]).tolist() == [210, 105, 35, 35, 35]
    assert {dataset._which(draw, 1) for draw in draws} == {0}


def test_prompts_of_the_30k_protocol(captions):
    """One caption each of different images, the same ones every time."""
    config = CocoConfig(root=str(captions))
    texts, labels = StoreDataModule.prompts(config, "val")
    assert StoreDataModule.prompts(config, "val")[0] == texts and labels.tolist() == [0] * 12
    assert len({text.partition(" no ")[0] for text in texts}) == 12 and len({text[-1] for text in texts}) > 1
    assert len(StoreDataModule.prompts(CocoConfig(root=str(captions), subset=5), "train")[0]) == 5


@pytest.mark.parametrize("before,after", [(1, 2), (4, 1)])
def test_a_resumed_epoch_on_another_number_of_processes(captions, before, after):
    """Global batches of 4, whatever the number of processes, with the same captions drawn."""

    class Trainer:
        def __init__(self, rank, world):
            self.global_rank, self.world_size = rank, world
            self.strategy = SimpleNamespace(root_device=torch.device("cpu"))

    def loaders(world):
        result = []
        for rank in range(world):
            data = module(CocoConfig(root=str(captions)), batch_size=4 // world)
            data.trainer = Trainer(rank, world)
            result.append(data.train_dataloader())
        return result

    def steps(group, count):
        result, iterators = [], [iter(loader) for loader in group]
        for _ in range(count):
            parts = [next(iterator) for iterator in iterators]
            result.append([text for part in parts for text in part["caption"]])
        return result

    whole = steps(loaders(1), 3)
    first = loaders(before)
    begun = steps(first, 1)
    resumed = loaders(after)
    for loader in resumed:
        loader.load_state_dict(first[0].state_dict())
    assert begun + steps(resumed, 2) == whole


def test_latents(tmp_path):
    class_tree(tmp_path / "images/train", range(1, 13))
    class_tree(tmp_path / "images/val", range(13, 16))
    for split in ("train", "val"):
        run("folder", tmp_path / "images", tmp_path / "stores", split, toy=ToyLatents())
    data = module(FolderConfig(root=str(tmp_path / "stores")), batch_size=4)
    batch = next(iter(data.train_dataloader()))
    assert batch["latents"].shape == (4, 1, 2, 2) and batch["latents"].dtype == torch.float32
    assert "tokens" not in batch
    numbers = batch["latents"].mean((1, 2, 3)).round().long()
    assert (numbers % 3 == batch["label"]).all()


def test_subset_is_fixed(classes):
    data = module(FolderConfig(root=str(classes), subset=16))
    epochs = [sorted(t for batch in data.train_dataloader() for t in batch["tokens"][:, 0].tolist()) for _ in range(2)]
    assert epochs[0] == epochs[1] and len(epochs[0]) == 16
    with pytest.raises(ValueError, match=r"data\.subset=41 is more than the 40"):
        module(FolderConfig(root=str(classes), subset=41))


def test_the_best_share_of_a_store(classes, tmp_path):
    """A quarter of the training and the validation images; a subset is one of the best."""
    root = shutil.copytree(classes, tmp_path / "stores")
    best = {}
    for split, count in (("train", 40), ("val", 9)):
        scores = np.random.default_rng(0).permutation(count).astype(np.uint8)
        np.save(root / split / "scores.npy", scores)
        numbers = TokenStore(root / split).codes[:, 0, 0]
        best[split] = sorted(numbers[scores >= count - -(-count // 4)].tolist())

    def seen(loader):
        return sorted(number for batch in loader for number in batch["tokens"][:, 0].tolist())

    data = module(FolderConfig(root=str(root), best_share=0.25), batch_size=5)
    assert seen(data.train_dataloader()) == best["train"] and len(best["train"]) == 10
    assert seen(data.val_dataloader()) == best["val"] and len(best["val"]) == 3
    part = module(FolderConfig(root=str(root), best_share=0.25, subset=5), batch_size=5)
    assert len(seen(part.train_dataloader())) == 5 and set(seen(part.train_dataloader())) < set(best["train"])
    assert seen(part.val_dataloader()) == best["val"]
    for wrong, message in (
        (np.arange(39), r"has the shape \(39,\), not \(40,\)"),
        (np.full(40, np.nan), "no finite numbers"),
        (np.full(40, "good"), "no finite numbers"),
    ):
        np.save(root / "train" / "scores.npy", wrong)
        with pytest.raises(ValueError, match=message):
            module(FolderConfig(root=str(root), best_share=0.25))


def test_what_does_not_fit_is_refused(classes, captions, tmp_path):
    with pytest.raises(ValueError, match=r"needs data\.root=FOLDER.*ablate tokenize imagenet"):
        module(ImageNetConfig())
    with pytest.raises(FileNotFoundError, match="ablate tokenize cc3m --split train"):
        CC3MConfig(root=str(tmp_path)).resolve()
    with pytest.raises(FileNotFoundError, match="ablate tokenize imagenet --split train"):
        module(ImageNetConfig(root=str(tmp_path)))
    with pytest.raises(ValueError, match="made with the tokenizer toy-weights, the run has other"):
        module(FolderConfig(root=str(classes)), encoder=ImageEncoder(Toy().encode_uint8, "other", 64))
    with pytest.raises(ValueError, match="cannot train a tokenizer"):
        module(FolderConfig(root=str(classes)), encoder=None)
    with pytest.raises(ValueError, match="images without captions"):
        module(FolderConfig(root=str(classes), condition="caption"))
    with pytest.raises(ValueError, match=r"have no classes; set data\.condition=caption"):
        FolderConfig(root=str(captions)).resolve()
    with pytest.raises(ValueError, match=r"have no captions; set data\.condition=class"):
        FolderConfig(root=str(classes), condition="caption").resolve()
    with pytest.raises(ValueError, match="coco has no classes"):
        CocoConfig(condition="class")
    with pytest.raises(ValueError, match="imagenet has no captions"):
        ImageNetConfig(condition="caption")
    with pytest.raises(ValueError, match=r"evaluation\.reference=FILE"):
        StoreDataModule.reference(ImageNetConfig())
    (tmp_path / "val").mkdir()
    for split in ("train", "val"):
        class_tree(tmp_path / "more" / split, range(3), ("a", "b", "c" if split == "train" else "a"))
    (tmp_path / "more/train/d").mkdir()
    (tmp_path / "more/train/d/1.png").write_bytes(encoded(picture(1)))
    for split in ("train", "val"):
        source = tmp_path / "more" / split
        run("folder", source, tmp_path / "stores", "train")
        (tmp_path / "stores/train").rename(tmp_path / f"stores/{split}-")
    for split in ("train", "val"):
        (tmp_path / f"stores/{split}-").rename(tmp_path / f"stores/{split}")
    with pytest.raises(ValueError, match="other classes"):
        FolderConfig(root=str(tmp_path / "stores")).resolve()
    for path in (tmp_path / "more/val/b").iterdir():
        path.write_bytes(b"broken")  # so that the class is there, and no image of it
    for split in ("train", "val"):
        shutil.rmtree(tmp_path / "stores" / split)
        run("folder", tmp_path / "more" / "val", tmp_path / "stores", "train")
        (tmp_path / "stores/train").rename(tmp_path / f"stores/{split}-")
    for split in ("train", "val"):
        (tmp_path / f"stores/{split}-").rename(tmp_path / f"stores/{split}")
    with pytest.raises(ValueError, match="train holds no image of the class b, and a run samples all 2 classes"):
        FolderConfig(root=str(tmp_path / "stores")).resolve()


@pytest.mark.parametrize(("val", "refused"), [(SYNSETS, False), (SYNSETS[1:], True), (("0", "1", "2"), False)])
def test_stores_of_imagenet_number_the_synsets_alike(tmp_path, val, refused):
    """Class names that are no synsets, as shards have them, say nothing."""
    for split, names in (("train", SYNSETS), ("val", val)):
        source = {"classes": list(names)}
        codes = np.zeros((3, 1, 4), int)
        write_store(tmp_path / split, codes, np.arange(3), [""] * 3, vocab_size=8, tokenizer="", source=source)
    config = ImageNetConfig(root=str(tmp_path))
    if refused:
        with pytest.raises(ValueError, match="differently: class 0 is n01440764 in one and n01443537 in the other"):
            config.resolve()
    else:
        config.resolve()


def test_the_fingerprint_is_of_the_content(classes, captions):
    prints = {
        resolved(FolderConfig(root=str(classes))).fingerprint,
        resolved(CocoConfig(root=str(captions))).fingerprint,
    }
    assert len(prints) == 2 and all(len(text) == 65 for text in prints)


@pytest.mark.parametrize(
    ("named", "labels", "stored"),
    [
        (list(SYNSETS), 3, list(SYNSETS)),
        ([f"n{i:08d}" for i in range(1000)], 1000, []),  # all: nothing enters the identity
        ([], 1000, []),
        ([], 3, None),
        ([str(i) for i in range(1000)], 999, None),  # shards of a part of ImageNet, of which nothing says how large
    ],
)
def test_imagenet_has_the_classes_of_its_stores(tmp_path, named, labels, stored):
    for split in ("train", "val"):
        codes, texts = np.zeros((labels, 1, 4), int), [""] * labels
        source = {"classes": named}
        write_store(tmp_path / split, codes, np.arange(labels), texts, vocab_size=8, tokenizer="", source=source)
    config = ImageNetConfig(root=str(tmp_path))
    if stored is None:
        with pytest.raises(ValueError, match=rf"images of {labels} of 1,000 classes.*`folder`.*--classes {labels}"):
            config.resolve()
        return
    config.resolve()
    assert (config.classes, config.num_classes) == (stored, labels)
    assert config.class_names == tuple(named or map(str, range(1000)))
    shutil.rmtree(tmp_path / "train")
    assert len(config.class_names) == labels, "a run is sampled where its data are gone"


def test_imagenet_without_stores_has_1000_classes():
    assert ImageNetConfig().num_classes == len(ImageNetConfig().class_names) == 1000
