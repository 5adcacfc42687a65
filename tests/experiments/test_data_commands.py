"""From images to a measured run: ablate tokenize, reference, train on the store, evaluate against the statistics."""

from __future__ import annotations

import io
import json
import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from datamodules.emoji.data import load_emoji
from datamodules.store import TokenStore, write_store
from datamodules.store_format import codes_shape, tokenizer_settings
from experiments.commands.tokenize import _conditions, _training
from experiments.config import load_config
from experiments.errors import UserError
from lightning_modules.hashing import file_sha256
from lightning_modules.metrics.statistics import read_statistics
from lightning_modules.text_encoders.config import T5Config
from lightning_modules.tokenizers.config import EMBEDDED, TOKENIZERS
from tests.datamodules.collections import encoded, picture, tar_shard


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Emoji as PNG files in class folders, 48 for training and 12 for validation."""
    folder = tmp_path_factory.mktemp("pictures")
    data = load_emoji(["noto"])
    for i in range(60):
        path = folder / ("val" if i % 5 == 4 else "train") / f"class{i % 3}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[i * 25]).save(path)
    return folder


def _scrambled(folder):
    """The embedded tokenizer with its codes in another order."""
    weights = load_file(EMBEDDED)
    codebook = next(key for key in weights if key.startswith("quantize"))
    save_file(weights | {codebook: weights[codebook].flip(0).contiguous()}, folder / "scrambled.safetensors")
    return folder / "scrambled.safetensors"


def test_images_to_a_measured_run(ablate, pictures, tmp_path):
    stores, root = tmp_path / "stores", tmp_path / "out"
    tokenize = ("tokenize", "folder", "--source", pictures, "--out", stores, "--tokenizer", "emoji_vq", "--workers", 0)
    for shard in (0, 1):
        code, out, _ = ablate(*tokenize, "--flip", "--shard", f"{shard}/2")
        assert code == 0 and "ablate tokenize merge" in out
    merge = ("tokenize", "merge", "--out", stores)
    code, _, err = ablate(*merge, "--tokenizer", "emoji_latent")
    assert code == 2 and "--tokenizer needs --verify here" in err and not (stores / "train").exists()
    code, out, err = ablate(*merge, "--verify", "--tokenizer", "emoji_vq")
    assert "48 images." in out and "in order. 48 images x 2 views" in out and (stores / "train.png").is_file(), err
    code, out, _ = ablate(*tokenize, "--split", "val", "--verify")
    assert code == 0 and "in order. 12 images x 1 views" in out and (stores / "val.png").is_file()

    reference = tmp_path / "reference.npz"
    made = ("reference", "folder", "--source", pictures, "--size", 32, "--out", reference, "--workers", 0)
    assert "folder/val, adm crop, 32 pixels, 12 images" in ablate(*made)[1]
    again = ("reference", "store", "--source", stores, "--tokenizer", "emoji_vq", "--out", tmp_path / "rec.npz")
    assert "reconstructions of stores/val, 12 images" in ablate(*again)[1]
    assert "reconstructions of stores/val, 5 images by seed 0, 5 images" in ablate(*again, "--count", 5)[1]
    code, _, err = ablate(*again, "--count", 13)
    assert code == 2 and "--count 13 is more than the 12 images of store/val" in err
    for words, said in (
        (("--tokenizer", "emoji_latent"), "not with emoji_latent"),
        ((f"weights={_scrambled(tmp_path)}",), "val was made with the tokenizer emoji_vq 138935b02631, not with emoji"),
        (("image_size=64",), "val was made with tokenizer.image_size=32, not 64"),
        (("--size", 32), "--size is for images; those of a store are cropped already"),
        (("--crop", "adm"), "--crop is for images"),
        (("--classes", 3), "--classes is for images"),
    ):
        code, _, err = ablate(*again, *words)
        assert code == 2 and said in err
    code, _, err = ablate(*made, "--tokenizer", "emoji_vq")
    assert code == 2 and "--tokenizer is for `reference store`" in err

    train = ["train", "maskmamba/demo", "data.name=folder", f"data.root={stores}", f"runtime.root={root}"]
    train += ["generator.width=32", "generator.depth=2", "generator.heads=2", "trainer.max_steps=2"]
    train += ["trainer.batch_size=16", "runtime.threads=1", "runtime.val_every=2", "runtime.sample_every=100"]
    train += ["sampler.steps=2", "evaluation.num_samples=6", "evaluation.bootstrap=4"]
    for words, said in (
        (["trainer.batch_size=64"], "the 48 there are; set trainer.batch_size=48 or less"),
        (["data.best_share=0.5", "trainer.batch_size=32"], "scores.npy"),
        (["--subset", 50], "data.subset=50 is more than the 48 training images"),
    ):
        code, _, err = ablate(*(word for word in train if "batch_size" not in word), *words)
        assert code == 2 and said in err and not root.exists(), "refused before the run has a folder"
    code, out, err = ablate(*train, "--subset", 40)
    assert code == 0, err
    assert f"ablate reference folder --source IMAGES --split train --size 32 --out FILE{chr(10)}" in out
    assert f"ablate evaluate {next((root / 'runs').iterdir()).name} evaluation.reference=FILE --root {root}" in out
    run = next((root / "runs").iterdir())
    assert "subset: 40" in (run / "config.yaml").read_text()
    code, _, err = ablate("evaluate", run.name, "--root", root)
    assert code == 2 and "evaluation.reference=FILE" in err
    code, _, err = ablate("evaluate", run.name, f"evaluation.reference={reference}", "--root", root)
    assert code == 0, err
    result = json.loads(next(run.glob("evaluations/*/result.json")).read_text())
    assert (
        result["protocol"]["reference"] == "folder/val, adm crop, 32 pixels (statistics of 12 images, 12 images kept)"
    )
    assert np.isfinite(result["metrics"]["fd_efflite0"])
    assert 0 <= result["metrics"]["class_accuracy_efflite0"] <= 1 and result["protocol"]["probe"]["images"] == 12
    assert ablate(*again)[0] == 0
    code, out, err = ablate("evaluate", run.name, f"evaluation.reference={tmp_path / 'rec.npz'}", "--root", root)
    assert code == 0 and "Class accuracy" in out, err


def test_a_reference_takes_every_label_and_counts_what_it_measured(ablate, tmp_path):
    members = [(f"{n}.png", encoded(picture(n))) for n in range(5)] + [("5.png", b"broken")]
    tar_shard(tmp_path / "train.tar", [*members, *((f"{n}.cls", str(998 + n).encode()) for n in range(6))])
    words = ("--source", tmp_path, "--split", "train", "--size", 16, "--out", tmp_path / "r.npz", "--workers", 0)
    code, out, err = ablate("reference", "folder", *words, "--count", 6)
    assert code == 0 and "16 pixels, 5 images by seed 0, 5 images, moments" in out, err


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """Twelve emoji with captions beside them, one without, and a broken file without one."""
    folder = tmp_path_factory.mktemp("captioned")
    emoji = load_emoji(["noto"])
    for i in range(13):
        Image.fromarray(emoji.images[i]).save(folder / f"{i:02d}.png")
        if i < 12:
            (folder / f"{i:02d}.txt").write_text(emoji.captions[i])
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_captions_to_a_run_by_the_command_that_is_printed(ablate, captioned, tmp_path):
    """Also with a preset for classes; --verify shows what a caption says beside the name of its image."""
    out = tmp_path / "stores of mine"
    words = ("folder", "--source", captioned, "--out", out, "--tokenizer", "emoji_vq", "--divide", "--workers", 0)
    code, said, err = ablate("tokenize", *words, "--verify")
    assert code == 0, err
    assert "left out: 1 x no caption" in said and "left out: 1 x not an image" in said
    assert f"  00.png  {load_emoji(['noto']).captions[0]}\n" in said
    command = shlex.split(re.search("^Train on it with: ablate (.*)$", said, re.MULTILINE)[1])
    assert command[:2] == ["train", "maskmamba/text-demo"] and f"data.root={out}" in command
    small = ["generator.width=16", "generator.depth=2", "generator.heads=2", "trainer.max_steps=1"]
    small += ["runtime.threads=1", "runtime.sample_every=0", f"runtime.root={tmp_path / 'runs'}"]
    assert "trainer.batch_size=11" in command  # the preset's 64 would be more than there are
    for preset in ("maskmamba/text-demo", "maskmamba/demo"):
        code, said, err = ablate("train", preset, *command[2:], *small)
        assert code == 0 and "1 steps" in said, err
    small.append("trainer.batch_size=4")
    code, _, err = ablate("train", "maskmamba/demo", *command[2:4], *small)  # the words for classes lead there at once
    words = re.findall(r"\S+=\S+[a-z]", err.partition("; set ")[2])
    assert code == 2 and ablate("train", "maskmamba/demo", *command[2:4], *words, *small)[0] == 0, err


def test_captions_within_class_folders_are_kept_beside_the_classes(ablate, tmp_path):
    """Both commands are printed, and the one for captions trains on them."""
    emoji = load_emoji(["noto"])
    for i in range(8):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(emoji.images[i]).save(path)
        path.with_suffix(".txt").write_text(emoji.captions[i])
    words = ("--source", tmp_path / "images", "--out", tmp_path / "out", "--tokenizer", "emoji_vq", "--workers", 0)
    code, said, err = ablate("tokenize", "folder", *words, "--divide")
    assert code == 0, err
    on_classes, on_captions = re.findall("^Train on it with: ablate (.*)$", said, re.MULTILINE)
    assert "data.condition" not in on_classes and "data.condition=caption" in on_captions
    store = TokenStore(tmp_path / "out" / "train")
    for i in range(len(store)):
        number = int(Path(store.key(i)).stem)
        assert (store.caption(i), int(store.labels[i])) == (emoji.captions[number], number % 2)
    small = ["generator.width=16", "generator.depth=2", "generator.heads=2", "trainer.max_steps=1"]
    small += ["runtime.threads=1", "runtime.sample_every=0", f"runtime.root={tmp_path / 'runs'}"]
    code, said, err = ablate(*shlex.split(on_captions), *small)
    assert code == 0 and "1 steps" in said, err
    (tmp_path / "images" / "a" / "0.txt").unlink()  # one without: it stays, and the classes are what there is
    code, said, err = ablate("tokenize", "folder", *words[:3], tmp_path / "less", *words[4:], "--divide")
    assert code == 0 and "left out" not in said and "data.condition" not in said, err


def test_a_reference_keeps_the_classes_of_its_images(ablate, pictures, captioned, tmp_path):
    """Of folders, of tar shards whose number of classes is told, of none where there are captions."""
    shard = tmp_path / "shards" / "train-0.tar"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as archive:
        for i, path in enumerate(sorted(pictures.glob("train/*/*.png"))):
            for name, content in ((f"{i}.png", path.read_bytes()), (f"{i}.cls", str(i % 2).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    sources = {"pictures": (pictures,), "shards": (shard.parent, "--classes", 2), "captioned": (captioned,)}
    for name, words in sources.items():
        made = ("--split", "train", "--size", 32, "--workers", 0, "--keep", 5, "--out", tmp_path / f"{name}.npz")
        code, _, err = ablate("reference", "folder", "--source", *words, *made)
        assert code == 0, err
    pictured, sharded, plain = (read_statistics(tmp_path / f"{name}.npz") for name in sources)
    assert pictured.classes == ("class0", "class1", "class2") and sharded.classes == ("0", "1")
    assert plain.classes == () and plain.labels is None and plain.images is not None
    files = sorted(pictures.glob("train/*/*.png"))
    pixels = {np.asarray(Image.open(file).convert("RGB")).tobytes(): file.parent.name for file in files}
    of_kept = [pixels[image.tobytes()] for image in pictured.images]
    assert of_kept == [pictured.classes[label] for label in pictured.labels]
    assert set(sharded.labels.tolist()) <= {0, 1} and len(sharded.labels) == 5


def test_a_reference_is_of_the_images_that_a_store_keeps(ablate, captioned, tmp_path):
    words = ("reference", "folder", "--source", captioned, "--split", "train", "--size", 32, "--workers", 0)
    code, out, err = ablate(*words, "--out", tmp_path / "all.npz")
    assert code == 0 and ", 12 images, moments" in out, err
    code, out, err = ablate(*words, "--out", tmp_path / "some.npz", "--count", 12)
    assert code == 0 and ", 12 images, moments" in out, err
    code, _, err = ablate(*words, "--out", tmp_path / "more.npz", "--count", 13)
    assert code == 2 and "--count 13 is more than the 12 images" in err


@pytest.mark.parametrize(
    ("dataset", "settings", "wanted"),
    [
        ("imagenet", ("weights=vq.pt",), "maskmamba/demo data.name=imagenet data.root=OUT tokenizer.name=llamagen_vq "),
        (
            "coco",
            ("tokenizer.codebook_size=512", "weights=vq.pt", "text_encoder.model=t5"),
            "tokenizer.codebook_size=512 tokenizer.weights=vq.pt data.condition=caption generator.condition=text "
            "text_encoder.name=t5 text_encoder.model=t5",
        ),
    ],
)
def test_the_printed_command_names_all_settings(dataset, settings, wanted, tmp_path):
    captioned = dataset == "coco"
    for split in ("train", "val"):
        write_store(
            tmp_path / split,
            np.zeros((2, 1, 4), np.uint16),
            np.zeros(2, np.int32),
            ["a", "b"] if captioned else ["", ""],
            vocab_size=8,
            tokenizer="x",
            source={} if captioned else {"classes": ["a"]},
        )
    text = T5Config() if captioned else None
    (condition,) = _conditions(dataset, tmp_path)
    assert wanted.replace("OUT", str(tmp_path)) in _training(
        dataset, tmp_path, "llamagen_vq", settings, text, condition
    )


def stores_of(folder, name, **of_source):
    """train/ and val/ with two images each, of the embedded tokenizer of that name."""
    config = TOKENIZERS[name].config()
    for split in ("train", "val"):
        kind = float if config.vocab_size == 0 else int
        write_store(
            folder / split,
            np.zeros((2, 1, *codes_shape(config)), kind),
            np.arange(2, dtype=np.int32),
            ["", ""],
            vocab_size=config.vocab_size,
            tokenizer=file_sha256(config.weight_file()),
            source={"classes": ["a", "b"], **of_source},
        )
    return folder


def settings_of(tokenizer):
    return {"tokenizer": tokenizer, "tokenizer_settings": tokenizer_settings(TOKENIZERS[tokenizer].config())}


@pytest.mark.parametrize(
    ("preset", "stored", "settings", "message"),
    [
        ("aim/demo", "emoji_vq", {"tokenizer.image_size": 64}, "made with tokenizer.image_size=32, not 64; set it"),
        ("aim/demo", "emoji_vq", {"tokenizer.groups": 4}, "made with tokenizer.groups=8, not 4; set it"),
        ("maskmamba/demo", "emoji_latent", {}, "made with the tokenizer emoji_latent 138935b02631, not with emoji_vq"),
        ("dimba/demo-class", "emoji_vq", {}, "made with the tokenizer emoji_vq 138935b02631, not with emoji_latent"),
    ],
)
def test_a_store_of_other_codes_is_refused_when_a_run_is_resolved(tmp_path, preset, stored, settings, message):
    """Although the weights are the same file."""
    root = stores_of(tmp_path, stored, **settings_of(stored))
    data = {"data.name": "folder", "data.root": str(root), "trainer.batch_size": 2}
    fitting = "aim/demo" if stored == "emoji_vq" else "dimba/demo-class"
    assert load_config(fitting, data).data.class_names == ("a", "b")
    with pytest.raises(UserError, match=re.escape(message)):
        load_config(preset, data | settings)


def test_a_store_that_names_no_settings_is_known_by_its_codes(tmp_path):
    data = {"data.name": "folder", "data.root": str(stores_of(tmp_path, "emoji_vq"))}
    assert load_config("aim/demo", data).generator.vocab_size == 512
    with pytest.raises(UserError, match=r"holds 64 tokens of 512 an image, but emoji_vq makes 256 tokens of 512; tok"):
        load_config("aim/demo", data | {"tokenizer.image_size": 64})
    with pytest.raises(UserError, match=r"holds 64 tokens of 512 an image, but emoji_latent makes latents 8x8x8; tok"):
        load_config("dimba/demo-class", data)


def test_features_of_captions_are_those_a_run_asks_for(ablate, tmp_path):
    """Real tokens only, and the bytes that saves; kept where a run on the store looks for them."""
    from datamodules.store import TokenStore
    from datamodules.stores import text_features
    from lightning_modules.text_encoders.config import MiniLMConfig

    emoji = load_emoji(["noto"])
    for i in range(5):
        path = tmp_path / f"images/{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(emoji.images[i]).save(path)
        path.with_suffix(".txt").write_text(emoji.captions[i])
    words = ("tokenize", "folder", "--out", tmp_path / "out", "--text-encoder", "minilm")
    code, out, err = ablate(*words, "--source", tmp_path / "images", "--tokenizer", "emoji_vq", "--workers", 0)
    assert code == 0, err
    config = MiniLMConfig()
    config.resolve()
    store = TokenStore(tmp_path / "out/train")

    class Unused:
        def __init__(self):
            self.config = config

    meta = text_features(store, Unused(), tmp_path / "elsewhere").meta  # found, not made
    assert meta.count == 5 and f"5 captions, {meta.total} tokens of width 128" in out
    assert f"{(5 * 16 - meta.total) * 128 * 2:,} bytes" in out and 0 < meta.total < 5 * 16
    code, out, _ = ablate(*words, "text_encoder.text_tokens=3")  # of a store that is there, with other settings
    assert code == 0 and "5 captions, 15 tokens" in out and len(list((tmp_path / "out/text").glob("minilm-*"))) == 2


@pytest.mark.parametrize(
    "words,message",
    [
        (["folder", "--source", "absent", "--tokenizer", "emoji_vq"], "source folder absent does not exist"),
        (["folder", "--source", "."], "has no weights of its own; name the published file with weights=FILE"),
        (["folder", "--source", ".", "weights=absent.pt"], "weights absent.pt not found"),
        (["folder", "--source", ".", "--tokenizer", "emoji_vk"], "Did you mean 'emoji_vq'"),
        (["folder", "--source", ".", "--tokenizer", "emoji_vq", "wieghts=x"], "wieghts"),
        (["folder", "--tokenizer", "emoji_vq"], "--source"),
        (["foldr", "--source", ".", "--tokenizer", "emoji_vq", "--divide"], "Did you mean 'folder'"),
        (["coco", "--source", ".", "--tokenizer", "emoji_vq", "--divide"], "coco has splits of its own"),
        (["folder", "--source", ".", "--divide", "--split", "test"], "--split is not for --divide, which makes train"),
        (["folder", "--source", ".", "--tokenizer", "emoji_vq", "--crops", "adm,half"], "Unknown crop 'half'"),
        (["folder", "--source", ".", "--tokenizer", "emoji_vq", "--shard", "3"], "is not I/K"),
        (["folder", "--source", ".", "--tokenizer", "emoji_vq", "--shard", "9/3"], "is not I/K"),
        (["folder", "--source", ".", "--tokenizer", "emoji_vq", "--shard", "slurm"], "job array"),
        (["merge"], "no tokenization to go on with"),
        (["coco", "--text-encoder", "t5"], "needs text_encoder.model=FOLDER"),
        (["coco", "--text-encoder", "t6"], "Did you mean 't5'"),
        (["coco", "text_encoder.model=x"], "name the text encoder with --text-encoder"),
        (["coco", "--text-encoder", "minilm"], "No token store at"),
        (["coco", "--text-encoder", "minilm", "--tokenizer", "emoji_vq"], "--tokenizer needs --verify here"),
        (["coco", "--text-encoder", "minilm", "weights=x"], "weights=x: a tokenizer is needed here with --verify only"),
        (["merge", "--source", "."], "--source is for making a store, not for merge"),
        (["merge", "--crops", "adm"], "--crops is for making a store, not for merge"),
        (["folder", "--verify", "--flip"], "--flip needs the images; name their folder with --source"),
        (
            ["folder", "--source", ".", "--shard", "0/2", "--verify"],
            "--verify needs the whole store; give it to",
        ),
        (["folder", "--source", ".", "--shard", "0/2", "--text-encoder", "minilm"], "--text-encoder needs the whole"),
    ],
)
def test_wrong_requests(ablate, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = ablate("tokenize", *words, "--out", "out", "--workers", 0)
    assert code == 2 and message in err and not (tmp_path / "out/train").exists()
