"""The emoji images that samples are measured against."""

from __future__ import annotations

from datamodules.emoji.config import EmojiConfig
from datamodules.emoji.data import load_emoji
from datamodules.emoji.labels import concept_family
from datamodules.subset import choose_subset
from lightning_modules.metrics.reference import ReferenceSet, split_reference


def emoji_reference(config: EmojiConfig) -> ReferenceSet:
    """The training images of the chosen styles, halved by concept (variants of one concept stay together).

    Reference and floor do not depend on `config.subset`, so that runs on fewer images stay comparable; memorisation
    looks at the images of the subset. `config.best_share` changes none of them: quality tuning goes on from a run that
    has seen the others. Without subset the reference is half of what the generator has seen, which is the custom for
    FID (reference = training set); held-out images would be too few for it.
    """
    train, heldout = load_emoji(config.styles, "train"), load_emoji(config.styles, "val")
    return split_reference(
        f"emoji/train, {' + '.join(config.styles)}, half of the concepts",
        train.images,
        train.labels,
        [concept_family(concept) for concept in train.concepts],
        train.images[choose_subset(len(train), config.subset)],
        heldout.images,
    )
