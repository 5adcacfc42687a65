"""The emoji reference set."""

import numpy as np

from datamodules.emoji.config import EmojiConfig
from datamodules.emoji.data import load_emoji
from datamodules.emoji.datamodule import EmojiDataModule
from datamodules.emoji.labels import concept_family


def test_reference_floor_and_heldout_share_no_concept():
    reference = EmojiDataModule.reference(EmojiConfig())
    families = {}
    for split in ("train", "val"):
        data = load_emoji(split=split)
        families[split] = {
            image.tobytes(): concept_family(c) for image, c in zip(data.images, data.concepts, strict=True)
        }
    first = {families["train"][image.tobytes()] for image in reference.images}
    second = {families["train"][image.tobytes()] for image in reference.real}
    assert len(first & second) <= 8  # identical drawings of different concepts, such as the flags of Norway and Bouvet
    assert not first & set(families["val"].values())
    assert abs(len(reference.images) - len(reference.real)) < 100
    assert len(reference.heldout) == len(families["val"])


def test_balanced_floor_at_the_default_number_of_samples():
    reference = EmojiDataModule.reference(EmojiConfig())
    assert reference.draw_real(np.arange(512) % 9, seed=0).shape == (512, 32, 32, 3)


def test_the_best_share_changes_nothing_because_a_tuned_run_has_seen_the_others():
    whole, best = (EmojiConfig(best_share=share) for share in (1.0, 0.25))
    references = [EmojiDataModule.reference(config) for config in (whole, best)]
    assert references[0].fingerprint == references[1].fingerprint
    assert np.array_equal(references[0].train, references[1].train)
    assert EmojiDataModule.prompts(whole, "train")[0] == EmojiDataModule.prompts(best, "train")[0]


def test_subset_changes_memorisation_alone():
    whole, part = (EmojiDataModule.reference(EmojiConfig(subset=subset)) for subset in (0, 100))
    assert whole.fingerprint == part.fingerprint and len(part.train) == 100 and len(whole.train) > 3000
    one_style = EmojiDataModule.reference(EmojiConfig(styles=["noto"]))
    assert one_style.fingerprint != whole.fingerprint and "noto" in one_style.name
