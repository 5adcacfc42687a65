"""What a prompt speaks of: its noun phrases, and which of two things stands where. By rules, without a parser.

T2I-CompBench (arXiv 2307.06350) takes noun phrases from spaCy's parser; the rules here agree on the pattern that its
prompts of colours, shapes and textures are made by ("a green bench and a blue bowl") and may not on free sentences.
"""

from __future__ import annotations

import re
from typing import NamedTuple

BETWEEN = frozenset(
    "and or but with without while as if that which who on in at of to from by for into onto over under above below "
    "behind beside between near next against along around through is are was were be been being has have had its sits "
    "sit stands stand lies lie rests rest rested hangs hang".split()
)
"""Words that stand between noun phrases in prompts."""
DETERMINERS = frozenset("a an the this that these those his her their my your our some two three".split())
PARTICIPLES = frozenset(
    "carrying chasing climbing crouching drinking driving eating featuring flying grazing hanging having holding "
    "jumping kneeling laughing laying leaning looking lying performing playing posing pulling pushing reaching reading "
    "resting riding running showing sitting skateboarding skiing sleeping smiling standing staring surfing swimming "
    "taking talking throwing using waiting walking watching wearing working".split()
)
"""Verbs that end a noun phrase of a caption. Not every word in -ing, as rings, buildings and paintings are things."""
PLACES = frozenset("left right top bottom side front back".split())
"""Words that are no thing to ask for where they stand alone, as in "on the left of"."""
RELATIONS = (
    ("left", "on the left of"),
    ("right", "on the right of"),
    ("below", "on the bottom of"),
    ("above", "on the top of"),
    ("above", "on top of"),
    ("near", "on side of"),
    ("near", "next to"),
    ("near", "near"),
)
"""The relations of T2I-CompBench's spatial prompts, and the words that it looks for."""


def noun_phrases(prompt: str) -> list[str]:
    """The phrases to ask for one by one: "A red book and a vase." -> ["a red book", "a vase"]."""
    phrases: list[list[str]] = [[]]
    for word in re.findall(r"[\w'-]+|[,.;:!?]", prompt.lower()):
        if word in BETWEEN or not word[0].isalnum():
            phrases.append([])
        elif word in DETERMINERS and phrases[-1]:
            phrases.append([word])
        else:
            phrases[-1].append(word)
    trimmed = [_without_verb(words) for words in phrases]
    return [" ".join(words) for words in trimmed if not DETERMINERS | PLACES >= set(words)]


def _without_verb(words: list[str]) -> list[str]:
    """ "a cat sitting" -> "a cat"; "a gold ring" stays."""
    says_more = sum(word not in DETERMINERS for word in words) > 1
    return words[:-1] if says_more and words[-1] in PARTICIPLES else words


class Relation(NamedTuple):
    """ "first stands `where` of second"."""

    first: str
    where: str
    second: str


def relation(prompt: str) -> Relation | None:
    """The relation that a prompt asks for, its things without articles; None if it asks for none."""
    text = " ".join(prompt.lower().strip(" .").split())
    for where, words in RELATIONS:
        first, found, second = text.partition(f" {words} ")
        if found:
            left, right = noun_phrases(first), noun_phrases(second)
            if left and right:
                return Relation(_bare(left[-1]), where, _bare(right[0]))
    return None


def _bare(phrase: str) -> str:
    return " ".join(word for word in phrase.split() if word not in DETERMINERS)
